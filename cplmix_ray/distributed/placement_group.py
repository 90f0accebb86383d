"""The devices that the workers of one run hold: a placement group of its own, or the one of the trial it is part of."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cplmix_ray.config import Placement
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.ray_init import cluster_devices
from cplmix_ray.utils.errors import ShortfallError, TrainingError


def bundle_of(gpu: bool) -> dict[str, float]:
    """What one worker holds."""
    return {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}


_BOOT = 1800.0
"""Seconds in which a machine is started and set up."""


@dataclass(frozen=True)
class Places:
    """Bundles ``first``, ``first + 1``, ... of a placement group, one for each worker."""

    group: PlacementGroup
    first: int = 0

    def strategy(self, rank: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.first + rank)


@contextlib.contextmanager
def own_places(plan: Plan, placement: Placement) -> Iterator[Places]:
    """Reserve a place for every worker, and give them back.

    Raises:
        ShortfallError: the cluster has fewer devices than the plan needs, or comes to have fewer during the wait.
        TrainingError: they were not free within ``collective_timeout`` seconds, or, where the cluster grows,
            not there within half an hour.
    """
    _require_devices(plan, placement)
    timeout = patience(placement)
    group = placement_group([bundle_of(plan.gpu)] * len(plan.workers), strategy="PACK")
    try:
        until = time.monotonic() + timeout
        while not group.wait(min(1.0, timeout)):
            _require_devices(plan, placement)
            if time.monotonic() > until:
                raise TrainingError(
                    f"The cluster has the {len(plan.workers)} workers' devices, but they were not free within "
                    f"{timeout:g} s; wait for other work to end, or raise --collective-timeout."
                )
        yield Places(group)
    finally:
        remove_placement_group(group)


def patience(placement: Placement) -> float:
    """Seconds to wait for devices: machines that are still to be started take long."""
    if placement.cluster_grows_to is None:
        return placement.collective_timeout
    return max(_BOOT, placement.collective_timeout)


def _require_devices(plan: Plan, placement: Placement) -> None:
    devices, needs = cluster_devices(placement), len(plan.workers)
    has = devices.gpus if plan.gpu else devices.cpus
    if needs > has:
        unit = "GPUs" if plan.gpu else "CPU cores"
        raise ShortfallError(
            f"{needs} workers need {needs} {unit}, but {devices.where} has {has}; "
            f"raise --arms-per-worker, use --engine local, or say with --cluster-grows-to how far it grows on demand."
        )
