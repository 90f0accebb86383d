"""The other workers of a run, from where one worker stands."""

from dataclasses import dataclass

import torch.distributed as dist

from cplmix_ray.minibatch import WHOLE, Shards


@dataclass(frozen=True)
class Peers:
    """Whom a worker sums with.

    Workers are numbered arm by arm, those with the shares 0, 1, ... of the same arms' minibatches next to each other.

    Attributes:
        arms: workers with other arms and the same cells; None where there are none.
        shards: the share of each minibatch that this worker holds, and the workers that hold the others.
    """

    arms: dist.ProcessGroup | None = None
    shards: Shards = WHOLE

    @classmethod
    def alone(cls, replicas: int) -> "Peers":
        """All arms and all shares in this process."""
        return cls(None, Shards.all_here(replicas))

    @classmethod
    def in_world(cls, replicas: int) -> "Peers":
        """The place of this process in torch.distributed's group of all workers, which all have to ask for at once."""
        rank, world = dist.get_rank(), dist.get_world_size()
        if replicas == 1:
            return cls(dist.group.WORLD)
        # Every group is made by every worker, also by those outside it.
        with_same_share = [dist.new_group(list(range(share, world, replicas))) for share in range(replicas)]
        with_same_arms = [dist.new_group(list(range(first, first + replicas))) for first in range(0, world, replicas)]
        share = rank % replicas
        arms = with_same_share[share] if world > replicas else None
        return cls(arms, Shards(replicas, (share,), with_same_arms[rank // replicas]))
