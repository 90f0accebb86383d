"""Arms on Ray actors inside one placement group; their events stream here and come out merged."""

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cplmix_ray.config import Config
from cplmix_ray.data.dataset import TrainingSet
from cplmix_ray.engine.plan import Plan
from cplmix_ray.engine.session import cluster_devices
from cplmix_ray.engine.worker import ArmWorker
from cplmix_ray.errors import InputError, NonFiniteError, TrainingError
from cplmix_ray.trainer.events import Event, merge
from cplmix_ray.trainer.loop import Start

_GRACE = 3.0
"""Seconds in which the other workers may still say what happened once one has failed."""


def train_on_actors(plan: Plan, config: Config, data: TrainingSet, start: Start) -> Iterator[Event]:
    """Start one actor a worker, train, and give everything back, whatever happens.

    Ray must be connected.

    Raises:
        InputError: the cluster has fewer devices than the plan needs.
        TrainingError: a worker failed; the message says which and why.
    """
    timeout = config.placement.collective_timeout
    with _actors(plan, config) as workers:
        try:
            host, port = ray.get(workers[0].open_store.remote(timeout))
            ray.get([worker.join.remote(host, port, timeout, plan.gpu) for worker in workers])
            in_store = [ray.put(data)], [ray.put(start)]
            streams = [
                worker.train.options(num_returns="streaming").remote(config, *in_store, plan.gpu) for worker in workers
            ]
        except RayError as error:
            raise TrainingError(f"The workers could not meet: {_first_line(error)}") from None
        yield from _merged(streams, plan)


@contextlib.contextmanager
def _actors(plan: Plan, config: Config) -> Iterator[list]:
    bundle = {"CPU": 1.0, "GPU": 1.0} if plan.gpu else {"CPU": 1.0}
    devices = cluster_devices()
    has = devices.gpus if plan.gpu else devices.cpus
    if len(plan.workers) > has:
        unit = "GPUs" if plan.gpu else "CPU cores"
        raise InputError(
            f"{len(plan.workers)} workers need {len(plan.workers)} {unit}, but {devices.where} has {has}; "
            f"raise --arms-per-worker or use --engine local."
        )
    group = placement_group([bundle] * len(plan.workers), strategy="PACK")
    workers: list = []
    try:
        timeout = config.placement.collective_timeout
        if not group.wait(timeout):
            raise TrainingError(
                f"The cluster has the {len(plan.workers)} workers' devices, but they were not free within "
                f"{timeout:g} s; wait for other work to end, or raise --collective-timeout."
            )
        remote = ray.remote(ArmWorker)
        for rank, arms in enumerate(plan.workers):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            options = remote.options(
                num_cpus=1, num_gpus=1 if plan.gpu else 0, scheduling_strategy=strategy, max_restarts=0
            )
            workers.append(options.remote(arms, rank, len(plan.workers), config.placement.threads or 1))
        yield workers
    finally:
        for worker in workers:
            ray.kill(worker, no_restart=True)
        remove_placement_group(group)


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
