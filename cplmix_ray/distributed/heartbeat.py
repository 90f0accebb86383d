"""Signs of life of a run's workers, by which a process that stands still is told from one that computes."""

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from cplmix_ray.distributed.failures import arms_of, as_error, cause_of
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.utils.errors import WorkerLostError

_BEAT = 1.0
"""Seconds between two questions to a worker; shorter where the patience is short."""
_START = 60.0
"""Seconds that a new process has at the least, as it loads its libraries in this time."""
PULSE = {"pulse": 1}
"""The concurrency group in which a worker answers, in a thread of its own, while its arms compute."""


class Pulse:
    """Asks every worker, while the driver waits for something else, whether it lives and how far it is.

    A worker answers however long a step takes, and whoever it waits for. Silence is counted while the driver listens,
    so that one that was busy, or stopped itself, blames nobody.

    Args:
        patience: seconds of silence after which a worker is given up.

    Attributes:
        reached: the most steps that a worker was heard to have done; None where none has begun.
    """

    def __init__(self, workers: Sequence[Any], plan: Plan, patience: float):
        self.workers, self.plan, self.patience = workers, plan, patience
        self.beat = min(_BEAT, patience / 4)
        self.reached: int | None = None
        self._silent = [0.0] * len(workers)
        self._asked = [self._ask(worker) for worker in workers]
        self._unheeded, self._looked = 0.0, time.monotonic()

    def await_start(self) -> None:
        """Wait until every worker has answered once.

        Raises:
            WorkerLostError: one is gone, or did not start within the patience (a minute at the least).
        """
        limit = max(self.patience, _START)
        ready, late = ray.wait(self._asked, num_returns=len(self._asked), timeout=limit)
        if late:
            ranks = [self._asked.index(ref) for ref in late]
            raise WorkerLostError(arms_of(ranks, self.plan), f"not started within {limit:g} s")
        for ref in ready:
            try:
                ray.get(ref)
            except RayError as error:
                raise as_error({self._asked.index(ref): cause_of(error)}, self.plan) from None
        self._look()

    def wait(self, refs: list, limit: float = float("inf")) -> list:
        """The first of ``refs`` that is ready; none where that took longer than ``limit`` seconds.

        Raises:
            WorkerLostError: a worker gave no sign of life for as long as the patience lasts.
        """
        until = time.monotonic() + limit
        while True:
            begun = time.monotonic()
            ready: list = ray.wait(refs, num_returns=1, timeout=max(0.0, min(self.beat, until - begun)))[0]
            self._unheeded += min(time.monotonic() - begun, 2 * self.beat)
            if time.monotonic() - self._looked >= self.beat:
                self._look()
            lost = {rank: silence for rank, silence in enumerate(self._silent) if silence >= self.patience}
            if lost:
                raise as_error({}, self.plan, lost, self.reached)
            if ready or begun >= until:
                return ready

    def hear_of(self, steps: int) -> None:
        """A worker has done so many steps."""
        self.reached = max(steps, self.reached or 0)

    def silent(self, until: float) -> dict[int, float]:
        """Workers that do not answer a question now: rank -> seconds for which nothing was heard from it."""
        self._look()
        begun = time.monotonic()
        ray.wait(self._asked, num_returns=len(self._asked), timeout=max(0.0, until - begun))
        self._unheeded += time.monotonic() - begun
        pending = ray.wait(self._asked, num_returns=len(self._asked), timeout=0)[1]
        self._look()
        return {rank: self._silent[rank] for rank, ref in enumerate(self._asked) if ref in pending}

    def _look(self) -> None:
        """Take the answers that have come, and ask those who gave them once more."""
        waited, self._unheeded, self._looked = self._unheeded, 0.0, time.monotonic()
        came = set(ray.wait(self._asked, num_returns=len(self._asked), timeout=0)[0])
        for rank, ref in enumerate(self._asked):
            if ref not in came:
                self._silent[rank] += waited
                continue
            self._silent[rank] = 0.0
            try:
                steps = ray.get(ref)
            except RayError:
                continue  # it is dead and known to be; whoever waits for its work hears why
            if steps is not None:
                self.hear_of(steps)
            self._asked[rank] = self._ask(self.workers[rank])

    @staticmethod
    def _ask(worker: Any) -> Any:
        return worker.steps.options(concurrency_group="pulse").remote()
