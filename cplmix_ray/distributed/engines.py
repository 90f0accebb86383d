"""The engines: where and how the units of a run are trained."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch

from cplmix_ray.config import Placement, RunConfig
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.plan import Plan, local_devices, local_plan, make_plan
from cplmix_ray.distributed.ray_init import cluster_devices, joins_cluster, ray_session
from cplmix_ray.training.events import Event, RunEvent
from cplmix_ray.training.loop import Start, training_loop
from cplmix_ray.utils.errors import RayStartError
from cplmix_ray.utils.threads import torch_threads


@dataclass(frozen=True)
class Engine:
    """A plan for the units of a run, and the function that trains them so; it yields events merged over all units."""

    plan: Plan
    train: Callable[[RunConfig, TrainingSet, Start], Generator[RunEvent, None, None]]


@contextlib.contextmanager
def engine_for(placement: Placement, n_units: int, unit: str = "arm") -> Iterator[Engine]:
    """The engine for a run; Ray is connected until the context ends, if the engine uses it.

    Args:
        unit: name of a unit in messages.

    Raises:
        InputError: more workers are requested than there are devices, or there is no cluster at the address.
        RayStartError: Ray cannot be started, and the engine is not 'auto'.
    """
    with contextlib.ExitStack() as stack:
        if placement.engine != "local" and joins_cluster(placement.ray_address):
            stack.enter_context(ray_session(placement.ray_address))
            plan = make_plan(placement, n_units, cluster_devices(placement), unit)
        else:
            plan = make_plan(placement, n_units, local_devices(), unit)
            if plan.engine != "local":
                try:
                    stack.enter_context(ray_session(placement.ray_address))
                except RayStartError as error:
                    if placement.engine != "auto":
                        raise
                    plan = local_plan(n_units, unit, plan.gpu, f"Ray cannot be started: {error.reason}")
        yield engine_of(plan)


def engine_of(plan: Plan) -> Engine:
    """The engine for a plan; unless the plan is local, Ray must be connected."""
    return Engine(plan, functools.partial(_train, plan))


def _train(plan: Plan, config: RunConfig, data: TrainingSet, start: Start) -> Generator[RunEvent, None, None]:
    if plan.engine == "local":
        yield from train_in_process(plan, config, data, start)
    elif plan.engine == "ray_train":
        from cplmix_ray.distributed.ray_train.launch import train_on_ray_train

        yield from train_on_ray_train(plan, config, data, start)
    else:
        from cplmix_ray.distributed.restarts import train_with_restarts

        yield from train_with_restarts(plan, config, data, start)


def train_in_process(plan: Plan, config: RunConfig, data: TrainingSet, start: Start) -> Iterator[Event]:
    """Engine local: train all units in this process; the number of torch threads is restored afterwards."""
    with torch_threads(config.placement.threads):
        yield from training_loop(config, data, plan.workers[0], torch.device("cuda" if plan.gpu else "cpu"), start)
