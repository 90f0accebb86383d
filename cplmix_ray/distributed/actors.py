"""Arms on Ray actors; their events stream here and come out merged."""

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from cplmix_ray.config import Config
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.events import Event, merge
from cplmix_ray.distributed.failures import arms_of, as_error, cause_of
from cplmix_ray.distributed.heartbeat import PULSE, Pulse
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.placement_group import Places, own_places
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.worker import ArmWorker
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import WorkerLostError

# Made once, as Ray keeps what it makes of a class until the process ends.
_ArmActor = ray.remote(concurrency_groups=PULSE)(ArmWorker)  # type: ignore[call-overload]
_GRACE = 3.0
"""Seconds in which the other workers may still say what happened once one has failed."""
_PARTING = 15.0
"""Seconds that killed workers have to be gone; what still holds a place then is ended with it. One that is stopped
does not end by itself, and Ray's own patience before it ends its process is 5 s."""


def train_on_actors(
    plan: Plan, config: Config, data: TrainingSet | StoredSet, start: Start, places: Places | None = None
) -> Generator[Event, None, None]:
    """Start one actor a worker, train, and give everything back, whatever happens.

    Ray must be connected.

    Args:
        data: the training set, or where it is in the object store already.
        places: the devices to use; None reserves some for the while.

    Raises:
        ShortfallError: the cluster has fewer devices than the plan needs.
        WorkerLostError: a worker is gone, or gave no sign of life for ``collective_timeout`` seconds; the same run can
            go on without that failure.
        TrainingError: a worker failed; the message says which and why.
    """
    timeout = config.placement.collective_timeout
    with contextlib.ExitStack() as stack:
        places = places or stack.enter_context(own_places(plan, config.placement))
        workers = stack.enter_context(_actors(plan, config, places))
        pulse = Pulse(workers, plan, timeout)
        pulse.await_start()
        host, port = _answers([workers[0].open_store.remote(timeout)], pulse)[0]
        _answers([worker.join.remote(host, port, timeout, plan.gpu) for worker in workers], pulse)
        stored = data if isinstance(data, StoredSet) else StoredSet.put(data)
        begin = [ray.put(start)]
        streams = [
            worker.train.options(num_returns="streaming").remote(config, stored, begin, plan.gpu) for worker in workers
        ]
        yield from _merged(streams, pulse)


@contextlib.contextmanager
def _actors(plan: Plan, config: Config, places: Places) -> Iterator[list]:
    workers: list = []
    try:
        for rank, arms in enumerate(plan.workers):
            options = _ArmActor.options(
                num_cpus=1, num_gpus=int(plan.gpu), scheduling_strategy=places.strategy(rank), max_restarts=0
            )
            workers.append(options.remote(arms, rank, len(plan.workers), config.placement.threads or 1))
        yield workers
    finally:
        for worker in workers:
            ray.kill(worker, no_restart=True)
        # A kill is only a request: asked for anything, a worker answers with its death once that has come.
        until = time.monotonic() + _PARTING
        for worker in workers:
            with contextlib.suppress(RayError):
                ray.get(worker.pid.remote(), timeout=max(0.0, until - time.monotonic()))


def _answers(refs: list, pulse: Pulse) -> list:
    """What the workers answer, in the order of their ranks; the first failure ends the waiting."""
    rank_of = {ref: rank for rank, ref in enumerate(refs)}
    # A worker that waits for another gives up by itself, and says so, when the collectives' time is over.
    pending, until = list(refs), time.monotonic() + pulse.patience + _GRACE
    while pending:
        done = pulse.wait(pending, until - time.monotonic())
        if not done:
            late = arms_of([rank_of[ref] for ref in pending], pulse.plan)
            raise WorkerLostError(late, f"no answer within {pulse.patience:g} s")
        pending.remove(done[0])
        try:
            ray.get(done)
        except RayError as error:
            raise _failure({rank_of[done[0]]: cause_of(error)}, {}, pulse) from None
    return ray.get(refs)


def _merged(streams: list, pulse: Pulse) -> Iterator[Event]:
    """Pass on an event once all workers have given theirs; the first failure ends it."""
    waiting: list[deque] = [deque() for _ in streams]
    rank_of = {id(stream): rank for rank, stream in enumerate(streams)}
    open_streams = list(streams)
    while open_streams:
        for stream in pulse.wait(open_streams):
            try:
                waiting[rank_of[id(stream)]].append(ray.get(next(stream)))
            except StopIteration:
                open_streams.remove(stream)
            except RayError as error:
                first = {rank_of[id(stream)]: cause_of(error)}
                others = {rank_of[id(s)]: s for s in open_streams if s is not stream}
                raise _failure(first, others, pulse) from None
        while all(waiting):
            event = merge([queue.popleft() for queue in waiting])
            pulse.hear_of(event.step)
            yield event


def _failure(first: dict[int, BaseException], streams: dict[int, Any], pulse: Pulse) -> Exception:
    """The error to raise after the first failure, when all have been asked what they know of it."""
    until = time.monotonic() + _GRACE
    silent = pulse.silent(until)
    # What the silent ones said before is of no use, and they will say nothing more.
    speaking = {rank: stream for rank, stream in streams.items() if rank not in silent}
    return as_error({**first, **_last_words(speaking, until)}, pulse.plan, silent, pulse.reached)


def _last_words(streams: dict[int, Any], until: float) -> dict[int, BaseException]:
    """What the other workers still say within the time of grace: rank -> the cause of its failure."""
    found = {}
    for rank, stream in streams.items():
        with contextlib.suppress(StopIteration):
            while ray.wait([stream], timeout=max(0.0, until - time.monotonic()))[0]:
                try:
                    ray.get(next(stream))
                except RayError as error:
                    found[rank] = cause_of(error)
                    break
    return found
