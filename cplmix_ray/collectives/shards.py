"""A minibatch that is shared out among workers: each holds some of its cells, and means are over all of them."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Shards:
    """Equal shares of the cells of a minibatch, the same for all arms.

    Attributes:
        n: shares in all.
        held: those that are here.
        group: the workers that hold the same arms; None where all shares are here.
    """

    n: int = 1
    held: tuple[int, ...] = (0,)
    group: dist.ProcessGroup | None = None

    @classmethod
    def all_here(cls, n: int) -> "Shards":
        """One worker with the whole minibatch."""
        return cls(n, tuple(range(n)))

    @property
    def part(self) -> float:
        """What is here, as a part of the minibatch; losses that count so much add up over workers."""
        return len(self.held) / self.n

    @property
    def speaks(self) -> bool:
        """Whether this worker tells of its arms; workers with other shares of the same cells would only repeat it."""
        return self.held[0] == 0

    def average(self, mean: Tensor) -> Tensor:
        """From the mean over the cells here to that over all; gradients flow back to every worker's cells."""
        return mean if self.group is None else _Average.apply(mean, self)

    def sum_up(self, tensor: Tensor) -> Tensor:
        """In place, without a gradient: the sum over workers."""
        if self.group is not None:
            dist.all_reduce(tensor, group=self.group)
        return tensor


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean: Tensor, shards: Shards) -> Tensor:  # type: ignore[override]
        ctx.shards = shards
        return shards.sum_up(mean * shards.part)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.shards.sum_up(slope.clone()) * ctx.shards.part, None


WHOLE = Shards()
"""One worker with the whole minibatch, in one share."""
