"""The interface of a copy, and a chain of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Copy:
    """One kind of type-preserving copy. A kind overrides one of the two methods."""

    def stand_in(self, idx_n: Tensor, generator: torch.Generator) -> Tensor:
        """Which cell to show in place of each cell; shape (n,), rows of the data. Runs before any value is read."""
        return idx_n

    def alter(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        """Changed values of the minibatch, shape (n, g); the input is left alone."""
        return x_ng


def make_copies(
    chain: Sequence[Copy], idx_n: Tensor, rows: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Tensor:
    """One arm's copies of a minibatch.

    Args:
        chain: kinds of copies, applied in order.
        idx_n: rows of the minibatch, the same for all arms.
        rows: reads rows, given on the CPU, as a dense (n, g) tensor on the generator's device.
        generator: the arm's own.
    """
    for copy in chain:
        idx_n = copy.stand_in(idx_n, generator)
    x_ng = rows(idx_n)
    for copy in chain:
        x_ng = copy.alter(x_ng, generator)
    return x_ng
