"""The interface of a copy, and a chain of them."""

import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from cplmix_ray.nn.dense_rows import DenseRows
from cplmix_ray.nn.rows import Rows


class Copy:
    """One kind of type-preserving copy. A kind overrides one of the two methods.

    Attributes:
        by_value: ``alter`` changes every value on its own and leaves zero as it is, so that it may be given the values
            that are not zero alone, in any shape.
    """

    by_value: ClassVar[bool] = False

    def stand_in(self, idx_n: Tensor, generator: torch.Generator) -> Tensor:
        """Which cell to show in place of each cell; shape (n,), rows of the data. Runs before any value is read."""
        return idx_n

    def alter(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        """Changed values of the minibatch, shape (n, g); the input is left alone."""
        return x_ng


def make_copies(
    chain: Sequence[Copy], idx_n: Tensor, rows: Callable[[Tensor], Rows], generator: torch.Generator
) -> Rows:
    """One arm's copies of a minibatch; sparse rows stay sparse through copies that change values one by one.

    Args:
        chain: kinds of copies, applied in order.
        idx_n: rows of the minibatch, the same for all arms.
        rows: reads rows, given on the CPU, onto the generator's device.
        generator: the arm's own.
    """
    for copy in chain:
        idx_n = copy.stand_in(idx_n, generator)
    x = rows(idx_n)
    for copy in chain:
        if copy.by_value:
            x = x.changed(functools.partial(copy.alter, generator=generator))
        elif type(copy).alter is not Copy.alter:
            x = DenseRows(copy.alter(x.dense(), generator))
    return x
