"""Rows whose values are all written out."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.nn.dropout_masks import kept
from cplmix_ray.nn.rows import Rows

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


class DenseRows(Rows):
    """Dense values, and which of them are hidden.

    Args:
        x_ng: values; never changed.
        keep_ng: uint8, 0 where a value is hidden; None hides none.
        chance: values that are kept are divided by it.
    """

    def __init__(self, x_ng: Tensor, keep_ng: Tensor | None = None, chance: float = 1.0):
        self.x_ng, self.keep_ng, self.chance = x_ng, keep_ng, chance
        self.shape, self.dtype, self.device = (x_ng.shape[0], x_ng.shape[1]), x_ng.dtype, x_ng.device

    def times(self, weight_gh: Tensor) -> Tensor:
        n_columns, right = weight_gh.shape[1], _padded(weight_gh).to(self.dtype)
        if self.whole:
            return torch.mm(self.dense(), right)[:, :n_columns].to(weight_gh.dtype)
        out_nh = right.new_empty(self.shape[0], right.shape[1])
        for start, stop, x_mg in self._blocks():
            torch.mm(x_mg, right, out=out_nh[start:stop])
        return out_nh[:, :n_columns].to(weight_gh.dtype) / self.chance

    def transposed_times(self, d_nh: Tensor) -> Tensor:
        n_columns, right = d_nh.shape[1], _padded(d_nh if self.keep_ng is None else d_nh / self.chance)
        right = right.to(self.dtype)
        if self.whole:
            return torch.mm(self.dense().t(), right)[:, :n_columns].to(d_nh.dtype)
        out_gh = d_nh.new_zeros(self.shape[1], right.shape[1])
        for start, stop, x_mg in self._blocks():
            if right.dtype == d_nh.dtype:
                out_gh.addmm_(x_mg.t(), right[start:stop])
            else:  # the sum over blocks is not to be rounded
                out_gh += torch.mm(x_mg.t(), right[start:stop])
        return out_gh[:, :n_columns]

    def hidden(self, rate: float, generators: Sequence[torch.Generator]) -> "DenseRows":
        if rate == 0.0:
            return self
        keep_ng, chance = kept(self.shape, rate, generators[0])
        return self._hiding(keep_ng, chance)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "DenseRows":
        return DenseRows(change(self.dense()))

    def in_precision(self, dtype: torch.dtype) -> "DenseRows":
        return (
            self if dtype == self.dtype else DenseRows(self._values(0, len(self)).to(dtype), self.keep_ng, self.chance)
        )

    def scaled(self, factor_n: Tensor) -> "DenseRows":
        return DenseRows(self.dense() * factor_n[:, None])

    def totals(self) -> Tensor:
        return torch.cat([x_mg.sum(-1, dtype=self._sums) / self.chance for _, _, x_mg in self._blocks()])

    def squares(self) -> Tensor:
        norms = [torch.linalg.vector_norm(x_mg, dim=1, dtype=self._sums) for _, _, x_mg in self._blocks()]
        return (torch.cat(norms) / self.chance).square()

    def block(self, start: int, stop: int) -> Tensor:
        x_mg = self._values(start, stop)
        return x_mg if self.keep_ng is None else x_mg * self.keep_ng[start:stop] / self.chance

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def whole(self) -> bool:
        """Whether all values are there as they are seen."""
        return self.keep_ng is None

    def _hiding(self, keep_ng: Tensor, chance: float) -> "DenseRows":
        return DenseRows(self.x_ng, keep_ng, chance)

    def _values(self, start: int, stop: int, out_mg: Tensor | None = None) -> Tensor:
        """Values of some cells with none hidden; they may be put into ``out_mg``."""
        return self.x_ng[start:stop]

    @property
    def _sums(self) -> torch.dtype:
        """Sums over genes are taken in 32 bits or more."""
        return torch.promote_types(self.dtype, torch.float32)

    def _blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """Blocks (start, stop, values with zeros where hidden), the same memory for all: a fresh tensor of all values
        costs more than the product, because the system has to hand out its pages one by one."""
        n, g = self.shape
        height = min(n, block_height(g, self.device))
        buffer_mg = None if self.whole else self._buffer(height)
        for start in range(0, n, height):
            stop = min(start + height, n)
            out_mg = None if buffer_mg is None else buffer_mg[: stop - start]
            x_mg = self._values(start, stop, out_mg)
            if self.keep_ng is not None:
                x_mg = torch.mul(x_mg, self.keep_ng[start:stop], out=out_mg)
            yield start, stop, x_mg

    def _buffer(self, height: int) -> Tensor:
        return torch.empty(height, self.shape[1], dtype=self.dtype, device=self.device)


class GatheredRows(DenseRows):
    """Rows of a matrix on the CPU that are gathered block by block whenever they are needed, and never all at once:
    reading a row again takes less time than giving it memory of its own.

    Args:
        values_ng: the matrix, float32 or float64; it may lie in shared memory and is never changed.
        idx_n: which of its rows, in order.
    """

    def __init__(self, values_ng: np.ndarray, idx_n: np.ndarray, keep_ng: Tensor | None = None, chance: float = 1.0):
        self.values_ng, self.idx_n, self.keep_ng, self.chance = values_ng, idx_n, keep_ng, chance
        self.shape, self.device = (len(idx_n), values_ng.shape[1]), torch.device("cpu")
        self.dtype = torch.float32 if values_ng.dtype == np.float32 else torch.float64

    @property
    def whole(self) -> bool:
        return False

    def _hiding(self, keep_ng: Tensor, chance: float) -> "GatheredRows":
        return GatheredRows(self.values_ng, self.idx_n, keep_ng, chance)

    def _values(self, start: int, stop: int, out_mg: Tensor | None = None) -> Tensor:
        idx_m = self.idx_n[start:stop]
        if out_mg is None:
            return torch.from_numpy(self.values_ng[idx_m])
        # "clip" writes straight into the buffer; the rows are there anyway.
        np.take(self.values_ng, idx_m, axis=0, out=out_mg.numpy(), mode="clip")
        return out_mg
