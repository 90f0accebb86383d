"""Rows of dense values, in memory of their own or gathered from a matrix block by block."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.nn.dropout_masks import dropout_mask
from cplmix_ray.nn.rows import Rows

ArmRows: TypeAlias = Tensor | Sequence[Rows]
"""The input of the arms of a worker: the rows of each, or a tensor (A, n, g)."""

BLOCK = 1 << 19
"""Values in a block: few enough for the processor's cache, and enough for efficient products."""


def block_height(width: int, device: torch.device) -> int:
    """Number of cells in a block of ``width`` values each; larger on a GPU."""
    return max(1, (BLOCK if device.type == "cpu" else 64 * BLOCK) // max(width, 1))


def _padded(matrix: Tensor) -> Tensor:
    """Pad with columns of zeros to a multiple of 16: on CPUs, products of other widths are slower, even 100 columns
    than 112."""
    missing = -matrix.shape[1] % 16
    if not missing or matrix.device.type != "cpu" or matrix.shape[1] < 32:
        return matrix
    return torch.nn.functional.pad(matrix, (0, missing))


class DenseRows(Rows):
    """Dense values with an optional dropout mask.

    Args:
        x_ng: values; never changed.
        keep_ng: dropout mask, uint8, 0 where a value is dropped; None drops none.
        keep_rate: probability that a value is kept; kept values are divided by it.
    """

    def __init__(self, x_ng: Tensor, keep_ng: Tensor | None = None, keep_rate: float = 1.0):
        self.x_ng, self.keep_ng, self.keep_rate = x_ng, keep_ng, keep_rate
        self.shape, self.dtype, self.device = (x_ng.shape[0], x_ng.shape[1]), x_ng.dtype, x_ng.device

    def matmul(self, weight_gh: Tensor) -> Tensor:
        n_columns, right = weight_gh.shape[1], _padded(weight_gh).to(self.dtype)
        if self.whole:
            return torch.mm(self.dense(), right)[:, :n_columns].to(weight_gh.dtype)
        out_nh = right.new_empty(self.shape[0], right.shape[1])
        for start, stop, x_mg in self._blocks():
            torch.mm(x_mg, right, out=out_nh[start:stop])
        return out_nh[:, :n_columns].to(weight_gh.dtype) / self.keep_rate

    def transposed_matmul(self, d_nh: Tensor) -> Tensor:
        n_columns, right = d_nh.shape[1], _padded(d_nh if self.keep_ng is None else d_nh / self.keep_rate)
        right = right.to(self.dtype)
        if self.whole:
            return torch.mm(self.dense().t(), right)[:, :n_columns].to(d_nh.dtype)
        out_gh = d_nh.new_zeros(self.shape[1], right.shape[1])
        for start, stop, x_mg in self._blocks():
            if right.dtype == d_nh.dtype:
                out_gh.addmm_(x_mg.t(), right[start:stop])
            else:  # the sum over blocks is not rounded to the lower precision
                out_gh += torch.mm(x_mg.t(), right[start:stop])
        return out_gh[:, :n_columns]

    def dropout(self, rate: float, generators: Sequence[torch.Generator]) -> "DenseRows":
        if rate == 0.0:
            return self
        keep_ng, keep_rate = dropout_mask(self.shape, rate, generators[0])
        return self._masked(keep_ng, keep_rate)

    def map_values(self, change: Callable[[Tensor], Tensor]) -> "DenseRows":
        return DenseRows(change(self.dense()))

    def to_dtype(self, dtype: torch.dtype) -> "DenseRows":
        return (
            self
            if dtype == self.dtype
            else DenseRows(self._values(0, len(self)).to(dtype), self.keep_ng, self.keep_rate)
        )

    def scale_rows(self, factor_n: Tensor) -> "DenseRows":
        return DenseRows(self.dense() * factor_n[:, None])

    def row_sums(self) -> Tensor:
        return torch.cat([x_mg.sum(-1, dtype=self._sums) / self.keep_rate for _, _, x_mg in self._blocks()])

    def row_square_sums(self) -> Tensor:
        norms = [torch.linalg.vector_norm(x_mg, dim=1, dtype=self._sums) for _, _, x_mg in self._blocks()]
        return (torch.cat(norms) / self.keep_rate).square()

    def block(self, start: int, stop: int) -> Tensor:
        x_mg = self._values(start, stop)
        return x_mg if self.keep_ng is None else x_mg * self.keep_ng[start:stop] / self.keep_rate

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def whole(self) -> bool:
        """Whether the values can be used without gathering or masking."""
        return self.keep_ng is None

    def _masked(self, keep_ng: Tensor, keep_rate: float) -> "DenseRows":
        return DenseRows(self.x_ng, keep_ng, keep_rate)

    def _values(self, start: int, stop: int, out_mg: Tensor | None = None) -> Tensor:
        """Values of some cells before dropout; they may be written into ``out_mg``."""
        return self.x_ng[start:stop]

    @property
    def _sums(self) -> torch.dtype:
        """Sums over genes are computed in 32 bits or more."""
        return torch.promote_types(self.dtype, torch.float32)

    def _blocks(self) -> Iterator[tuple[int, int, Tensor]]:
        """Blocks (start, stop, masked values) in one buffer: allocating a tensor of all values takes longer than the
        product, because the system maps its pages one by one."""
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
    """Rows of a matrix on the CPU that are gathered block by block at every use: reading a row again is faster than
    allocating memory for a copy.

    Args:
        values_ng: the matrix, float32 or float64, possibly in shared memory; never modified.
        idx_n: which of its rows, in order.
    """

    def __init__(self, values_ng: np.ndarray, idx_n: np.ndarray, keep_ng: Tensor | None = None, keep_rate: float = 1.0):
        self.values_ng, self.idx_n, self.keep_ng, self.keep_rate = values_ng, idx_n, keep_ng, keep_rate
        self.shape, self.device = (len(idx_n), values_ng.shape[1]), torch.device("cpu")
        self.dtype = torch.float32 if values_ng.dtype == np.float32 else torch.float64

    @property
    def whole(self) -> bool:
        return False

    def _masked(self, keep_ng: Tensor, keep_rate: float) -> "GatheredRows":
        return GatheredRows(self.values_ng, self.idx_n, keep_ng, keep_rate)

    def _values(self, start: int, stop: int, out_mg: Tensor | None = None) -> Tensor:
        idx_m = self.idx_n[start:stop]
        if out_mg is None:
            return torch.from_numpy(self.values_ng[idx_m])
        # mode="clip" writes into the buffer without a copy; all indices are valid.
        np.take(self.values_ng, idx_m, axis=0, out=out_mg.numpy(), mode="clip")
        return out_mg


def rows_of_arms(cells: ArmRows) -> tuple[Rows, ...]:
    """The rows of each arm."""
    return tuple(DenseRows(x_ng) for x_ng in cells) if isinstance(cells, Tensor) else tuple(cells)
