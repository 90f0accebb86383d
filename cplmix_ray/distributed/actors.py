"""Training on Ray actors; their events are streamed to the driver and merged."""

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

import ray
from ray.exceptions import RayError

from cplmix_ray.config import RunConfig
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.failure_causes import cause_of, error_for, units_of
from cplmix_ray.distributed.heartbeat import HEARTBEAT_GROUP, Heartbeat
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.placement_group import ReservedDevices, reserve_devices
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.worker import TrainingWorker
from cplmix_ray.training.events import Event, merge
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import WorkerLostError

# Created once: Ray keeps what it creates for an actor class until the process ends.
_WorkerActor = ray.remote(concurrency_groups=HEARTBEAT_GROUP)(TrainingWorker)  # type: ignore[call-overload]
_REPORT_SECONDS = 3.0
"""Seconds in which the other workers can report a cause after the first failure."""
_KILL_SECONDS = 15.0
"""Seconds to wait until killed workers have exited, before their devices are released. A stopped process does not exit
by itself; Ray waits 5 s before it kills one."""


def train_on_actors(
    plan: Plan, config: RunConfig, data: TrainingSet | StoredSet, start: Start, reserved: ReservedDevices | None = None
) -> Generator[Event, None, None]:
    """Start one actor per worker and train; actors and devices are released in the end, also after an error.

    Ray must be connected.

    Args:
        data: the training set, or its references if it is in the object store already.
        reserved: the devices to use; None reserves devices for this call.

    Raises:
        ShortfallError: the cluster has fewer devices than the plan needs.
        WorkerLostError: a worker died, or did not reply for ``collective_timeout`` seconds; the run can be repeated.
        TrainingError: a worker failed; the message names it and the cause.
    """
    timeout = config.placement.collective_timeout
    with contextlib.ExitStack() as stack:
        reserved = reserved or stack.enter_context(reserve_devices(plan, config.placement))
        workers = stack.enter_context(_actors(plan, config, reserved))
        heartbeat = Heartbeat(workers, plan, timeout)
        heartbeat.await_start()
        host, port = _results([workers[0].open_store.remote(timeout)], heartbeat)[0]
        _results([worker.join.remote(host, port, timeout, plan.gpu) for worker in workers], heartbeat)
        stored = data if isinstance(data, StoredSet) else StoredSet.put(data)
        begin = [ray.put(start)]
        streams = [
            worker.train.options(num_returns="streaming").remote(config, stored, begin, plan.gpu) for worker in workers
        ]
        yield from _merged_events(streams, heartbeat)


@contextlib.contextmanager
def _actors(plan: Plan, config: RunConfig, reserved: ReservedDevices) -> Iterator[list]:
    workers: list = []
    try:
        for rank, units in enumerate(plan.workers):
            options = _WorkerActor.options(
                num_cpus=1, num_gpus=int(plan.gpu), scheduling_strategy=reserved.strategy(rank), max_restarts=0
            )
            workers.append(options.remote(units, rank, len(plan.workers), config.placement.threads or 1))
        yield workers
    finally:
        for worker in workers:
            ray.kill(worker, no_restart=True)
        # ray.kill does not wait; a call to a killed actor raises an error once the actor is dead.
        until = time.monotonic() + _KILL_SECONDS
        for worker in workers:
            with contextlib.suppress(RayError):
                ray.get(worker.pid.remote(), timeout=max(0.0, until - time.monotonic()))


def _results(refs: list, heartbeat: Heartbeat) -> list:
    """Results of one call to each worker, in the order of their ranks; the first failure is raised."""
    rank_of = {ref: rank for rank, ref in enumerate(refs)}
    # A worker that waits for another raises an error of its own when the collective times out.
    pending, until = list(refs), time.monotonic() + heartbeat.timeout + _REPORT_SECONDS
    while pending:
        done = heartbeat.wait(pending, until - time.monotonic())
        if not done:
            late = units_of([rank_of[ref] for ref in pending], heartbeat.plan)
            raise WorkerLostError(late, f"no answer within {heartbeat.timeout:g} s")
        pending.remove(done[0])
        try:
            ray.get(done)
        except RayError as error:
            raise _failure({rank_of[done[0]]: cause_of(error)}, {}, heartbeat) from None
    return ray.get(refs)


def _merged_events(streams: list, heartbeat: Heartbeat) -> Iterator[Event]:
    """Events of all workers, each merged and yielded once all workers have sent it; the first failure is raised."""
    queues: list[deque] = [deque() for _ in streams]
    rank_of = {id(stream): rank for rank, stream in enumerate(streams)}
    open_streams = list(streams)
    while open_streams:
        for stream in heartbeat.wait(open_streams):
            try:
                queues[rank_of[id(stream)]].append(ray.get(next(stream)))
            except StopIteration:
                open_streams.remove(stream)
            except RayError as error:
                first = {rank_of[id(stream)]: cause_of(error)}
                others = {rank_of[id(s)]: s for s in open_streams if s is not stream}
                raise _failure(first, others, heartbeat) from None
        while all(queues):
            event = merge([queue.popleft() for queue in queues])
            heartbeat.record_steps(event.step)
            yield event


def _failure(first: dict[int, BaseException], streams: dict[int, Any], heartbeat: Heartbeat) -> Exception:
    """The error to raise after the first failure, with what the other workers report within a few seconds."""
    until = time.monotonic() + _REPORT_SECONDS
    unresponsive = heartbeat.unresponsive(until)
    # Unresponsive workers cannot report a cause any more.
    responsive = {rank: stream for rank, stream in streams.items() if rank not in unresponsive}
    return error_for({**first, **_further_causes(responsive, until)}, heartbeat.plan, unresponsive, heartbeat.reached)


def _further_causes(streams: dict[int, Any], until: float) -> dict[int, BaseException]:
    """Failures that other workers report before ``until``: rank -> cause."""
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
