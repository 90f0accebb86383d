"""Shards of a minibatch on several workers, and averages over the whole minibatch."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Shards:
    """Equal shards of the cells of a minibatch, the same for all units.

    Attributes:
        n: number of shards.
        held: indices of the shards on this worker.
        group: workers with the same units and other shards; None if all shards are on this worker.
    """

    n: int = 1
    held: tuple[int, ...] = (0,)
    group: dist.ProcessGroup | None = None

    @classmethod
    def all_here(cls, n: int) -> "Shards":
        """One worker with the whole minibatch."""
        return cls(n, tuple(range(n)))

    @property
    def fraction(self) -> float:
        """Fraction of the minibatch on this worker; losses weighted by it add up over workers."""
        return len(self.held) / self.n

    @property
    def reports(self) -> bool:
        """Whether this worker reports its units; workers with other shards have the same values."""
        return self.held[0] == 0

    def average(self, mean: Tensor) -> Tensor:
        """Mean over the minibatch from the mean over the cells on this worker; differentiable on every worker."""
        return mean if self.group is None else _Average.apply(mean, self)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over workers, in place and without a gradient."""
        if self.group is not None:
            dist.all_reduce(tensor, group=self.group)
        return tensor


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx, mean: Tensor, shards: Shards) -> Tensor:  # type: ignore[override]
        ctx.shards = shards
        return shards.sum(mean * shards.fraction)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.shards.sum(gradient.clone()) * ctx.shards.fraction, None


WHOLE = Shards()
"""One worker with the whole minibatch in one shard."""
