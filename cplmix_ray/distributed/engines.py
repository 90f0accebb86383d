"""One entrance to all engines."""

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from cplmix_ray.config import Config, Placement
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.events import RunEvent
from cplmix_ray.distributed.plan import Plan, local_devices, make_plan
from cplmix_ray.distributed.ray_init import cluster_devices, joins_cluster, ray_session
from cplmix_ray.training.loop import Start


@dataclass(frozen=True)
class Engine:
    """Where the arms of a run go, and the function that trains them there; its events come merged over all arms."""

    plan: Plan
    train: Callable[[Config, TrainingSet, Start], Generator[RunEvent, None, None]]


@contextlib.contextmanager
def engine_for(placement: Placement, n_arms: int) -> Iterator[Engine]:
    """Decide where the arms go, with Ray connected while it is needed.

    Raises:
        InputError: more workers are asked for than there are devices.
    """
    with contextlib.ExitStack() as stack:
        if placement.engine != "local" and joins_cluster(placement.ray_address):
            stack.enter_context(ray_session(placement.ray_address))
            plan = make_plan(placement, n_arms, cluster_devices(placement))
        else:
            plan = make_plan(placement, n_arms, local_devices())
            if plan.engine != "local":
                stack.enter_context(ray_session(placement.ray_address))
        yield Engine(plan, functools.partial(_train, plan))


def _train(plan: Plan, config: Config, data: TrainingSet, start: Start) -> Generator[RunEvent, None, None]:
    if plan.engine == "local":
        from cplmix_ray.distributed.local import train_packed

        yield from train_packed(plan, config, data, start)
    elif plan.engine == "ray_train":
        from cplmix_ray.distributed.ray_train.launch import train_on_ray_train

        yield from train_on_ray_train(plan, config, data, start)
    else:
        from cplmix_ray.distributed.restarts import train_through_losses

        yield from train_through_losses(plan, config, data, start)
