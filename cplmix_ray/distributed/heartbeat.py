"""Heartbeats of a run's workers, which tell a stopped process from one that computes."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from cplmix_ray.distributed.failure_causes import cause_of, error_for, units_of
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.utils.errors import WorkerLostError

_INTERVAL = 1.0
"""Seconds between two requests to a worker; fewer if the timeout is short."""
_START_TIMEOUT = 60.0
"""Seconds that a new process has at least, since it loads its libraries in this time."""
HEARTBEAT_GROUP = {"heartbeat": 1}
"""Ray's concurrency group in which a worker replies, in a thread of its own, while its units compute."""


class Heartbeat:
    """Requests the number of steps done from every worker while the driver waits for something else.

    A worker replies however long a step takes, and whatever it waits for. Its silence is counted only while the driver
    waits for replies, so that a driver that was busy or stopped itself does not report workers as lost.

    Args:
        timeout: seconds of silence after which a worker is lost.

    Attributes:
        reached: the largest number of steps that a worker reported; None before the first.
    """

    def __init__(self, workers: Sequence[Any], plan: Plan, timeout: float):
        self.workers, self.plan, self.timeout = workers, plan, timeout
        self.interval = min(_INTERVAL, timeout / 4)
        self.reached: int | None = None
        self._silence = [0.0] * len(workers)
        self._requests = [self._request(worker) for worker in workers]
        self._waited, self._checked_at = 0.0, time.monotonic()

    def await_start(self) -> None:
        """Wait until every worker has replied once.

        Raises:
            WorkerLostError: one died, or did not start within the timeout (at least a minute).
        """
        limit = max(self.timeout, _START_TIMEOUT)
        ready, late = ray.wait(self._requests, num_returns=len(self._requests), timeout=limit)
        if late:
            ranks = [self._requests.index(ref) for ref in late]
            raise WorkerLostError(units_of(ranks, self.plan), f"not started within {limit:g} s")
        for ref in ready:
            try:
                ray.get(ref)
            except RayError as error:
                raise error_for({self._requests.index(ref): cause_of(error)}, self.plan) from None
        self._check()

    def wait(self, refs: list, limit: float = float("inf")) -> list:
        """The first of ``refs`` that is ready, in a list; an empty list after ``limit`` seconds.

        Raises:
            WorkerLostError: a worker did not reply within the timeout.
        """
        until = time.monotonic() + limit
        while True:
            started = time.monotonic()
            ready: list = ray.wait(refs, num_returns=1, timeout=max(0.0, min(self.interval, until - started)))[0]
            self._waited += min(time.monotonic() - started, 2 * self.interval)
            if time.monotonic() - self._checked_at >= self.interval:
                self._check()
            lost = {rank: silence for rank, silence in enumerate(self._silence) if silence >= self.timeout}
            if lost:
                raise error_for({}, self.plan, lost, self.reached)
            if ready or started >= until:
                return ready

    def record_steps(self, steps: int) -> None:
        """Record that a worker has done ``steps`` steps."""
        self.reached = max(steps, self.reached or 0)

    def unresponsive(self, until: float) -> dict[int, float]:
        """Workers that do not reply before ``until``: rank -> seconds of silence."""
        self._check()
        started = time.monotonic()
        ray.wait(self._requests, num_returns=len(self._requests), timeout=max(0.0, until - started))
        self._waited += time.monotonic() - started
        pending = ray.wait(self._requests, num_returns=len(self._requests), timeout=0)[1]
        self._check()
        return {rank: self._silence[rank] for rank, ref in enumerate(self._requests) if ref in pending}

    def _check(self) -> None:
        """Read the replies that have arrived, and send new requests to the workers that replied."""
        waited, self._waited, self._checked_at = self._waited, 0.0, time.monotonic()
        replied = set(ray.wait(self._requests, num_returns=len(self._requests), timeout=0)[0])
        for rank, ref in enumerate(self._requests):
            if ref not in replied:
                self._silence[rank] += waited
                continue
            self._silence[rank] = 0.0
            try:
                steps = ray.get(ref)
            except RayError:
                continue  # the worker is dead; the caller that waits for its result receives the cause
            if steps is not None:
                self.record_steps(steps)
            self._requests[rank] = self._request(self.workers[rank])

    @staticmethod
    def _request(worker: Any) -> Any:
        return worker.steps.options(concurrency_group="heartbeat").remote()
