"""Arms on Ray actors; their events stream here and come out merged."""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cplmix_ray.config import Config
from cplmix_ray.data.dataset import TrainingSet
from cplmix_ray.engine.places import Places, own_places
from cplmix_ray.engine.plan import Plan
from cplmix_ray.engine.store import StoredSet
from cplmix_ray.engine.worker import ArmWorker
from cplmix_ray.errors import InputError, NonFiniteError, TrainingError
from cplmix_ray.trainer.events import Event, merge
from cplmix_ray.trainer.loop import Start

_GRACE = 3.0
"""Seconds in which the other workers may still say what happened once one has failed."""


def train_on_actors(
    plan: Plan, config: Config, data: TrainingSet | StoredSet, start: Start, places: Places | None = None
) -> Iterator[Event]:
    """Start one actor a worker, train, and give everything back, whatever happens.

    Ray must be connected.

    Args:
        data: the training set, or where it is in the object store already.
        places: the devices to use; None reserves some for the while.

    Raises:
        InputError: the cluster has fewer devices than the plan needs.
        TrainingError: a worker failed; the message says which and why.
    """
    timeout = config.placement.collective_timeout
    with contextlib.ExitStack() as stack:
        places = places or stack.enter_context(own_places(plan, timeout))
        workers = stack.enter_context(_actors(plan, config, places))
        try:
            host, port = ray.get(workers[0].open_store.remote(timeout))
            ray.get([worker.join.remote(host, port, timeout, plan.gpu) for worker in workers])
            stored = data if isinstance(data, StoredSet) else StoredSet.put(data)
            begin = [ray.put(start)]
            streams = [
                worker.train.options(num_returns="streaming").remote(config, stored, begin, plan.gpu)
                for worker in workers
            ]
        except RayError as error:
            raise TrainingError(f"The workers could not meet: {_first_line(error)}") from None
        yield from _merged(streams, plan)


@contextlib.contextmanager
def _actors(plan: Plan, config: Config, places: Places) -> Iterator[list]:
    workers: list = []
    try:
        remote = ray.remote(ArmWorker)
        for rank, arms in enumerate(plan.workers):
            options = remote.options(
                num_cpus=1, num_gpus=int(plan.gpu), scheduling_strategy=places.strategy(rank), max_restarts=0
            )
            workers.append(options.remote(arms, rank, len(plan.workers), config.placement.threads or 1))
        yield workers
    finally:
        for worker in workers:
            ray.kill(worker, no_restart=True)


def _merged(streams: list, plan: Plan) -> Iterator[Event]:
    """Pass on an event once all workers have given theirs; the first failure ends it."""
    waiting: list[deque] = [deque() for _ in streams]
    rank_of = {id(stream): rank for rank, stream in enumerate(streams)}
    open_streams = list(streams)
    while open_streams:
        ready: list[Any] = ray.wait(open_streams, num_returns=1)[0]
        for stream in ready:
            try:
                waiting[rank_of[id(stream)]].append(ray.get(next(stream)))
            except StopIteration:
                open_streams.remove(stream)
            except RayError as error:
                raise _cause(error, rank_of[id(stream)], open_streams, plan) from None
        while all(waiting):
            yield merge([queue.popleft() for queue in waiting])


def _cause(error: RayError, rank: int, open_streams: list, plan: Plan) -> Exception:
    """The most telling of the workers' errors: what one found in its own arm, before what it saw of the others."""
    found = [(rank, error)]
    for stream in open_streams:
        with contextlib.suppress(StopIteration):
            while ray.wait([stream], timeout=_GRACE)[0]:
                try:
                    ray.get(next(stream))
                except RayError as other:
                    found.append((rank, other))
                    break
    causes = [e.cause if isinstance(e, RayTaskError) else e for _, e in found]
    for cause in causes:
        if isinstance(cause, NonFiniteError) and cause.arm is not None:
            return cause
    for cause in causes:
        if isinstance(cause, NonFiniteError | InputError):
            return cause
    arms = "+".join(str(arm) for arm in plan.workers[rank])
    return TrainingError(f"The worker of arm {arms} failed ({_first_line(causes[0])}); --resume goes on from there.")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if isinstance(error, RayTaskError) else lines[0] if lines else ''}"
