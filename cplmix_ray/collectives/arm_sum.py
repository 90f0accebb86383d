"""The sum over arms: packed arms add up in place, arms elsewhere through one asynchronous allreduce.

One code path serves both: the local sum is always taken, and is all there is when there is no process group.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class PendingSum:
    """A sum under way."""

    buffer: Tensor
    shape: torch.Size
    work: dist.Work | None
    arm_sum: "ArmSum"

    def wait(self) -> tuple[Tensor, Tensor]:
        """The sum over all arms: the tensor (n, K), and the scalar that rode along."""
        if self.work is not None:
            begun = time.perf_counter()
            self.work.wait()
            self.arm_sum.waited += time.perf_counter() - begun
        return self.buffer[:-1].view(self.shape), self.buffer[-1]


@dataclass
class ArmSum:
    """Sums a tensor and a scalar of every arm over all arms of all workers.

    Args:
        group: the workers' process group; None where this worker holds all the arms.

    Attributes:
        waited: seconds that sums were waited for, so far.
        sent: bytes that this worker put into the newest sum, whatever the number of arms, here or elsewhere.
    """

    group: dist.ProcessGroup | None = None
    waited: float = field(default=0.0, init=False)
    sent: int = field(default=0, init=False)

    def launch(self, tensor_ank: Tensor, scalar_a: Tensor) -> PendingSum:
        """Start the sum and return at once; no gradient passes through it.

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
        """Sum gradients over workers, for parameters that all arms share."""
        sum_gradients(parameters, self.group)


def sum_gradients(parameters: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """Sum gradients over the workers of a group, all in one message."""
    if group is None:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat, op=dist.ReduceOp.SUM, group=group)
    for gradient, total in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(total.view_as(gradient))
