"""Sums over units: a local sum over the units of this worker, then one asynchronous all-reduce over workers.

Without a process group the local sum is the whole sum, so that packed and distributed units use the same code.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class PendingSum:
    """A sum in progress."""

    buffer: Tensor
    shape: torch.Size
    work: dist.Work | None
    unit_sum: "UnitSum"

    def wait(self) -> tuple[Tensor, Tensor]:
        """Wait for the sum over all units: the tensor (n, K) and the scalar."""
        if self.work is not None:
            started = time.perf_counter()
            self.work.wait()
            self.unit_sum.waited += time.perf_counter() - started
        return self.buffer[:-1].view(self.shape), self.buffer[-1]


@dataclass
class UnitSum:
    """Sums a tensor and a scalar over all units (arms) of all workers.

    Args:
        group: process group of the workers; None if this worker holds all units.

    Attributes:
        waited: seconds spent waiting for sums so far.
        sent: bytes that this worker sent for the latest sum; independent of the number of units.
    """

    group: dist.ProcessGroup | None = None
    waited: float = field(default=0.0, init=False)
    sent: int = field(default=0, init=False)

    def launch(self, tensor_ank: Tensor, scalar_a: Tensor) -> PendingSum:
        """Start the sum and return immediately; no gradient flows through it.

        Args:
            tensor_ank: shape (A_local, n, K).
            scalar_a: shape (A_local,), sent in the same buffer.
        """
        with torch.no_grad():
            buffer = torch.cat([tensor_ank.sum(dim=0).flatten(), scalar_a.sum().view(1)])
        work = None
        if self.group is not None:
            work = dist.all_reduce(buffer, op=dist.ReduceOp.SUM, group=self.group, async_op=True)
            self.sent = buffer.nbytes
        return PendingSum(buffer, tensor_ank.shape[1:], work, self)

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum over workers the gradients of parameters that all units have in common."""
        sum_gradients(parameters, self.group)


def sum_gradients(parameters: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """Sum gradients over the workers of a group in one all-reduce."""
    if group is None:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat, op=dist.ReduceOp.SUM, group=group)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
