"""Rows whose values are all written out."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cplmix_ray.minibatch.masks import kept
from cplmix_ray.minibatch.rows import Rows

BLOCK = 1 << 19
"""Values of a block that is computed on at once: small enough for a processor's cache, large enough for its speed."""


def block_height(width: int, device: torch.device) -> int:
    """Cells of a block of ``width`` values each; a GPU has no use for small ones."""
    return max(1, (BLOCK if device.type == "cpu" else 64 * BLOCK) // max(width, 1))


def _padded(matrix: Tensor) -> Tensor:
    """With columns of zeros up to a whole number of 16: matrix products of other widths take longer on processors,
    100 columns longer than 112."""
    missing = -matrix.shape[1] % 16
    if not missing or matrix.device.type != "cpu" or matrix.shape[1] < 32:
        return matrix
    return torch.nn.functional.pad(matrix, (0, missing))


def _sums(x_ng: Tensor) -> torch.dtype:
    """Sums over genes are taken in 32 bits or more."""
    return torch.promote_types(x_ng.dtype, torch.float32)


class DenseRows(Rows):
    """Dense values, and which of them are hidden.

    Args:
        x_ng: values; never changed.
        keep_ng: uint8, 0 where a value is hidden; None hides none.
        chance: values that are kept are divided by it.
    """

    def __init__(self, x_ng: Tensor, keep_ng: Tensor | None = None, chance: float = 1.0):
        self.x_ng, self.keep_ng, self.chance = x_ng, keep_ng, chance
        self.shape, self.dtype = (x_ng.shape[0], x_ng.shape[1]), x_ng.dtype

    def times(self, weight_gh: Tensor) -> Tensor:
        n_columns, right = weight_gh.shape[1], _padded(weight_gh).to(self.x_ng.dtype)
        if self.keep_ng is None:
            return torch.mm(self.x_ng, right)[:, :n_columns].to(weight_gh.dtype)
        out_nh = right.new_empty(self.shape[0], right.shape[1])
        for start, stop, x_mg in self._masked():
            torch.mm(x_mg, right, out=out_nh[start:stop])
        return out_nh[:, :n_columns].to(weight_gh.dtype) / self.chance

    def transposed_times(self, d_nh: Tensor) -> Tensor:
        n_columns, right = d_nh.shape[1], _padded(d_nh if self.keep_ng is None else d_nh / self.chance)
        right = right.to(self.x_ng.dtype)
        if self.keep_ng is None:
            return torch.mm(self.x_ng.t(), right)[:, :n_columns].to(d_nh.dtype)
        out_gh = d_nh.new_zeros(self.shape[1], right.shape[1])
        for start, stop, x_mg in self._masked():
            if right.dtype == d_nh.dtype:
                out_gh.addmm_(x_mg.t(), right[start:stop])
            else:  # the sum over blocks is not to be rounded
                out_gh += torch.mm(x_mg.t(), right[start:stop])
        return out_gh[:, :n_columns]

    def hidden(self, rate: float, generators: Sequence[torch.Generator]) -> "DenseRows":
        if rate == 0.0:
            return self
        keep_ng, chance = kept(self.shape, rate, generators[0])
        return DenseRows(self.dense(), keep_ng, chance)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "DenseRows":
        return DenseRows(change(self.dense()))

    def in_precision(self, dtype: torch.dtype) -> "DenseRows":
        return self if dtype == self.x_ng.dtype else DenseRows(self.x_ng.to(dtype), self.keep_ng, self.chance)

    def scaled(self, factor_n: Tensor) -> "DenseRows":
        return DenseRows(self.dense() * factor_n[:, None])

    def totals(self) -> Tensor:
        return self.dense().sum(-1, dtype=_sums(self.x_ng))

    def squares(self) -> Tensor:
        return torch.linalg.vector_norm(self.dense(), dim=1, dtype=_sums(self.x_ng)).square()

    def block(self, start: int, stop: int) -> Tensor:
        x_mg = self.x_ng[start:stop]
        return x_mg if self.keep_ng is None else x_mg * self.keep_ng[start:stop] / self.chance

    def _masked(self):
        """Blocks (start, stop, values with zeros where hidden), the same memory for all: a fresh tensor of all values
        costs more than the product, because the system has to hand out its pages one by one."""
        assert self.keep_ng is not None
        n, g = self.shape
        height = min(n, block_height(g, self.x_ng.device))
        buffer_mg = self.x_ng.new_empty(height, g)
        for start in range(0, n, height):
            stop = min(start + height, n)
            x_mg = torch.mul(self.x_ng[start:stop], self.keep_ng[start:stop], out=buffer_mg[: stop - start])
            yield start, stop, x_mg
