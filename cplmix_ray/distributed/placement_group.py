"""Devices reserved for the workers of a run: a placement group of its own, or that of the trial it belongs to."""

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


def worker_resources(gpu: bool) -> dict[str, float]:
    """Resources of one worker."""
    return {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}


_BOOT_SECONDS = 1800.0
"""Seconds in which a machine of an autoscaling cluster is started and set up."""


@dataclass(frozen=True)
class ReservedDevices:
    """Bundles ``first``, ``first + 1``, ... of a placement group, one for each worker."""

    group: PlacementGroup
    first: int = 0

    def strategy(self, rank: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.first + rank)


@contextlib.contextmanager
def reserve_devices(plan: Plan, placement: Placement) -> Iterator[ReservedDevices]:
    """Reserve devices for all workers; they are released at the end of the context.

    Raises:
        ShortfallError: the cluster has fewer devices than the plan needs, at first or after a loss during the wait.
        TrainingError: they were not free within ``collective_timeout`` seconds, or within half an hour if the cluster
            grows on demand.
    """
    _require_devices(plan, placement)
    timeout = device_timeout(placement)
    group = placement_group([worker_resources(plan.gpu)] * len(plan.workers), strategy="PACK")
    try:
        until = time.monotonic() + timeout
        while not group.wait(min(1.0, timeout)):
            _require_devices(plan, placement)
            if time.monotonic() > until:
                raise TrainingError(
                    f"The cluster has the {len(plan.workers)} workers' devices, but they were not free within "
                    f"{timeout:g} s; wait for other work to end, or raise --collective-timeout."
                )
        yield ReservedDevices(group)
    finally:
        remove_placement_group(group)


def device_timeout(placement: Placement) -> float:
    """Seconds to wait for devices; more if machines may have to be started first."""
    if placement.cluster_grows_to is None:
        return placement.collective_timeout
    return max(_BOOT_SECONDS, placement.collective_timeout)


def _require_devices(plan: Plan, placement: Placement) -> None:
    devices, needs = cluster_devices(placement), len(plan.workers)
    has = devices.gpus if plan.gpu else devices.cpus
    if needs > has:
        unit = "GPUs" if plan.gpu else "CPU cores"
        raise ShortfallError(
            f"{needs} workers need {needs} {unit}, but {devices.where} has {has}; "
            f"raise --arms-per-worker, use --engine local, or give with --cluster-grows-to the number of devices to "
            f"which it grows on demand."
        )
