"""Restarts of training after the loss of a worker or a machine, from the newest snapshot that the driver received."""

import contextlib
import time
from collections.abc import Generator
from dataclasses import replace

from ray.exceptions import RayError

from cplmix_ray.config import Placement, RunConfig
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.actors import train_on_actors
from cplmix_ray.distributed.failure_causes import short_text, units_of
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.placement_group import ReservedDevices
from cplmix_ray.distributed.plan import Plan, make_plan
from cplmix_ray.distributed.ray_init import cluster_devices
from cplmix_ray.training.events import PlanChanged, Restarted, RunEvent, Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import ShortfallError, TrainingError, WorkerLostError


def train_with_restarts(
    plan: Plan, config: RunConfig, data: TrainingSet | StoredSet, start: Start, reserved: ReservedDevices | None = None
) -> Generator[RunEvent, None, None]:
    """Train on actors; after a loss, train on new ones from the newest snapshot, up to ``max_failures`` times.

    The plan is kept if enough devices are available. If a machine was lost with its devices, the units are packed on
    the remaining ones, unless --arms-per-worker or ``reserved`` is given: then Ray has ``collective_timeout`` seconds
    to provide others.

    Raises:
        InputError, NonFiniteError, TrainingError: a worker failed with an error that a restart would repeat.
        TrainingError: there were too many failures, or too few devices were left.
    """
    stored = data if isinstance(data, StoredSet) else StoredSet.put(data)
    wanted, placement, failures = plan, config.placement, 0
    until = 0.0  # before the first loss, missing devices are an error of the settings
    while True:
        try:
            with contextlib.closing(train_on_actors(plan, config, stored, start, reserved)) as events:
                for event in events:
                    if isinstance(event, Snapshot):
                        start = Start(event.step, event.parts)
                    yield event
            return
        except WorkerLostError as lost:
            failures += 1
            if failures > placement.max_failures:
                raise restarts_exceeded(lost, placement) from None
            loss = Restarted(start.step, str(lost), lost.reached)
            until = time.monotonic() + placement.collective_timeout
        except RayError as error:  # of the driver itself: the object store is full, or the head node is gone
            raise TrainingError(
                f"Ray failed ({short_text(error)}); --resume continues from the newest checkpoint."
            ) from None
        except ShortfallError:  # Ray notices the loss of a machine some seconds after that of its workers
            if time.monotonic() > until:
                raise
            loss = None
        if loss is not None:
            yield loss
        before, plan = plan, wanted if reserved else _available_plan(wanted, placement, until)
        if plan != before:
            yield PlanChanged(plan.reason)


def _available_plan(wanted: Plan, placement: Placement, until: float) -> Plan:
    """The plan for the devices that are available; waits while there are too few.

    Raises:
        TrainingError: there were too few until the time ``until``.
    """
    while True:
        devices = cluster_devices(placement)
        has = devices.gpus if wanted.gpu else devices.cpus
        if has >= len(wanted.workers):
            return wanted
        if has and placement.arms_per_worker is None:
            same_kind = {"engine": "ray", "device": "cuda" if wanted.gpu else "cpu"}
            plan = make_plan(placement.model_copy(update=same_kind), wanted.n_units, devices, wanted.unit)
            placed = units_of(range(len(plan.workers)), plan)
            reason = f"{placed[0].upper()}{placed[1:]} now run on as many Ray actors as devices are left: {has}."
            return replace(plan, reason=reason)
        if time.monotonic() > until:
            raise TrainingError(
                f"Only {has} of the {len(wanted.workers)} devices that the workers need were left after a loss, and "
                f"others did not become available within {placement.collective_timeout:g} s; --resume continues from "
                f"the newest checkpoint."
            )
        time.sleep(0.5)


def restarts_exceeded(lost: WorkerLostError, placement: Placement) -> TrainingError:
    """The error of a run that lost workers more often than ``max_failures``."""
    allowed = placement.max_failures
    restarts = "no restart" if allowed == 0 else "no more restarts"
    return TrainingError(
        f"{lost}, and --max-failures {allowed} allows {restarts}; --resume continues from the newest checkpoint."
    )
