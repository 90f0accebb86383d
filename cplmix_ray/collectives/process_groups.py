"""Process groups of a worker."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from cplmix_ray.collectives.shards import WHOLE, Shards


def _ignore(steps: int) -> None:
    """The default of ``ProcessGroups.on_step``."""


@dataclass(frozen=True)
class ProcessGroups:
    """The process groups in which a worker communicates.

    Workers are numbered unit by unit; workers with the same units and the shards 0, 1, ... of their minibatches are
    consecutive.

    Attributes:
        units: workers with other units and the same cells; None if there are none.
        shards: the shards of each minibatch on this worker, and the workers with the other shards.
        on_step: called after each step with the number of steps done.
    """

    units: dist.ProcessGroup | None = None
    shards: Shards = WHOLE
    on_step: Callable[[int], object] = _ignore

    @classmethod
    def single_process(cls, replicas: int) -> "ProcessGroups":
        """All units and all shards in this process."""
        return cls(None, Shards.all_here(replicas))

    @classmethod
    def from_world(
        cls, replicas: int, timeout: float | None = None, on_step: Callable[[int], object] = _ignore
    ) -> "ProcessGroups":
        """The groups of this process in torch.distributed's default group; all workers must call this together.

        Args:
            timeout: seconds after which a collective among some of the workers fails. The default is torch's half an
                hour, independent of the timeout of the default group.
        """
        rank, world = dist.get_rank(), dist.get_world_size()
        if replicas == 1:
            return cls(dist.group.WORLD, on_step=on_step)
        # Every worker must create every group, including groups that it does not belong to.
        limit = None if timeout is None else timedelta(seconds=timeout)
        with_same_shard = [dist.new_group(list(range(shard, world, replicas)), limit) for shard in range(replicas)]
        with_same_units = [dist.new_group(list(range(at, at + replicas)), limit) for at in range(0, world, replicas)]
        shard = rank % replicas
        units = with_same_shard[shard] if world > replicas else None
        return cls(units, Shards(replicas, (shard,), with_same_units[rank // replicas]), on_step)
