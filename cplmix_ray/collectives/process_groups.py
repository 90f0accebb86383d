"""The other workers of a run, from where one worker stands."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from cplmix_ray.collectives.shards import WHOLE, Shards


def _tell_nobody(steps: int) -> None:
    """Nobody asks."""


@dataclass(frozen=True)
class Peers:
    """Whom a worker sums with.

    Workers are numbered arm by arm, those with the shares 0, 1, ... of the same arms' minibatches next to each other.

    Attributes:
        arms: workers with other arms and the same cells; None where there are none.
        shards: the share of each minibatch that this worker holds, and the workers that hold the others.
        tell: told after each step how many are done, for whoever asks how far this worker is.
    """

    arms: dist.ProcessGroup | None = None
    shards: Shards = WHOLE
    tell: Callable[[int], object] = _tell_nobody

    @classmethod
    def alone(cls, replicas: int) -> "Peers":
        """All arms and all shares in this process."""
        return cls(None, Shards.all_here(replicas))

    @classmethod
    def in_world(
        cls, replicas: int, timeout: float | None = None, tell: Callable[[int], object] = _tell_nobody
    ) -> "Peers":
        """The place of this process in torch.distributed's group of all workers, which all have to ask for at once.

        Args:
            timeout: seconds after which a sum among some of the workers gives up; torch has half an hour otherwise,
                whatever the group of all workers has.
        """
        rank, world = dist.get_rank(), dist.get_world_size()
        if replicas == 1:
            return cls(dist.group.WORLD, tell=tell)
        # Every group is made by every worker, also by those outside it.
        limit = None if timeout is None else timedelta(seconds=timeout)
        with_same_share = [dist.new_group(list(range(share, world, replicas)), limit) for share in range(replicas)]
        with_same_arms = [dist.new_group(list(range(at, at + replicas)), limit) for at in range(0, world, replicas)]
        share = rank % replicas
        arms = with_same_share[share] if world > replicas else None
        return cls(arms, Shards(replicas, (share,), with_same_arms[rank // replicas]), tell)
