"""Training that goes on after a worker or a machine was lost, from the newest snapshot that the driver has seen."""

import contextlib
import time
from collections.abc import Generator
from dataclasses import replace

from ray.exceptions import RayError

from cplmix_ray.config import Config, Placement
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.actors import train_on_actors
from cplmix_ray.distributed.events import Moved, Restarted, RunEvent, Snapshot
from cplmix_ray.distributed.failures import arms_of, words
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.placement_group import Places
from cplmix_ray.distributed.plan import Plan, make_plan
from cplmix_ray.distributed.ray_init import cluster_devices
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import ShortfallError, TrainingError, WorkerLostError


def train_through_losses(
    plan: Plan, config: Config, data: TrainingSet | StoredSet, start: Start, places: Places | None = None
) -> Generator[RunEvent, None, None]:
    """Train on actors, and again on new ones from the newest snapshot, up to ``max_failures`` times.

    The plan is kept where its devices are there still or again. Where a machine took some along, the arms are packed
    on the rest, unless the user fixed the arms a worker or ``places`` are given: then Ray has ``collective_timeout``
    seconds to bring others.

    Raises:
        InputError, NonFiniteError, TrainingError: as they come from the workers; they would only repeat.
        TrainingError: the failures were too many, or too few devices were left.
    """
    stored = data if isinstance(data, StoredSet) else StoredSet.put(data)
    wanted, placement, failures = plan, config.placement, 0
    until = 0.0  # before the first loss, devices that are not there are the user's matter
    while True:
        try:
            with contextlib.closing(train_on_actors(plan, config, stored, start, places)) as events:
                for event in events:
                    if isinstance(event, Snapshot):
                        start = Start(event.step, event.arms)
                    yield event
            return
        except WorkerLostError as lost:
            failures += 1
            if failures > placement.max_failures:
                raise too_often(lost, placement) from None
            loss = Restarted(start.step, str(lost), lost.reached)
            until = time.monotonic() + placement.collective_timeout
        except RayError as error:  # of the driver's own dealings with Ray: a store that is full, a control that is gone
            raise TrainingError(f"Ray failed ({words(error)}); --resume goes on from the newest checkpoint.") from None
        except ShortfallError:  # a machine's end is known some seconds after its workers'
            if time.monotonic() > until:
                raise
            loss = None
        if loss is not None:
            yield loss
        before, plan = plan, wanted if places else _plan_now(wanted, placement, config.model.n_arms, until)
        if plan != before:
            yield Moved(plan.reason)


def _plan_now(wanted: Plan, placement: Placement, n_arms: int, until: float) -> Plan:
    """The plan for the devices that are there, waited for while there are too few.

    Raises:
        TrainingError: there were too few until the time was over.
    """
    while True:
        devices = cluster_devices(placement)
        has = devices.gpus if wanted.gpu else devices.cpus
        if has >= len(wanted.workers):
            return wanted
        if has and placement.arms_per_worker is None:
            same_kind = {"engine": "ray", "device": "cuda" if wanted.gpu else "cpu"}
            plan = make_plan(placement.model_copy(update=same_kind), n_arms, devices)
            spread = arms_of(range(len(plan.workers)), plan)
            return replace(plan, reason=f"Arms {spread} now run on as many Ray actors as devices are left: {has}.")
        if time.monotonic() > until:
            raise TrainingError(
                f"Only {has} of the {len(wanted.workers)} devices that the workers need were left after a loss, and "
                f"others did not come within {placement.collective_timeout:g} s; --resume goes on from the newest "
                f"checkpoint."
            )
        time.sleep(0.5)


def too_often(lost: WorkerLostError, placement: Placement) -> TrainingError:
    """The end of a run that lost workers more often than is allowed."""
    allowed = placement.max_failures
    restarts = "no restart" if allowed == 0 else "no more restarts"
    return TrainingError(
        f"{lost}, and --max-failures {allowed} allows {restarts}; --resume goes on from the newest checkpoint."
    )
