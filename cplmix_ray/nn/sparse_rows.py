"""Rows in compressed sparse row (CSR) form."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from cplmix_ray.nn.dropout_masks import dropout_mask
from cplmix_ray.nn.rows import Rows

DENSE_FROM = 0.35
"""Share of nonzero values above which a dense product is faster, measured with 100 hidden units."""


class SparsityPattern:
    """Positions of the nonzero values, and, computed at first use, those in the transposed matrix.

    Args:
        indices: gene of each value, int32.
        offsets: index of each cell's first value and, last, the number of values.
        shape: (n, g).
    """

    def __init__(self, indices: Tensor, offsets: Tensor, shape: tuple[int, int]):
        self.indices, self.offsets, self.shape = indices, offsets, shape

    @cached_property
    def counts_n(self) -> Tensor:
        """Number of nonzero values of each cell."""
        return self.offsets.diff()

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (cells) and offsets of the transposed matrix, and the order of the values in it."""
        numbers = np.arange(len(self.indices), dtype=np.int32)
        by_gene = sp.csr_matrix((numbers, self.indices.numpy(), self.offsets.numpy()), shape=self.shape).tocsc()
        return torch.from_numpy(by_gene.indices), torch.from_numpy(by_gene.indptr), torch.from_numpy(by_gene.data)


class SparseRows(Rows):
    """Nonzero values on the CPU.

    Args:
        values: shape (m,), cell by cell.
        pattern: their positions; shared by rows that differ in their values alone.
    """

    def __init__(self, values: Tensor, pattern: SparsityPattern):
        self.values, self.pattern = values, pattern
        self.shape, self.dtype = pattern.shape, values.dtype

    @classmethod
    def from_csr(cls, matrix: sp.csr_matrix) -> "SparseRows":
        """From a SciPy matrix, whose memory is shared."""
        indices = torch.from_numpy(matrix.indices.astype(np.int32, copy=False))
        offsets = torch.from_numpy(matrix.indptr.astype(np.int32, copy=False))
        return cls(torch.from_numpy(matrix.data), SparsityPattern(indices, offsets, matrix.shape))

    def matmul(self, weight_gh: Tensor) -> Tensor:
        return _sum_rows(weight_gh.detach().contiguous(), self.pattern.indices, self.pattern.offsets, self.values)

    def transposed_matmul(self, d_nh: Tensor) -> Tensor:
        cells, offsets, order = self.pattern.transposed
        return _sum_rows(d_nh.contiguous(), cells, offsets, self.values.index_select(0, order))

    def dropout(self, rate: float, generators: Sequence[torch.Generator]) -> "SparseRows":
        if rate == 0.0:
            return self
        mask, keep_rate = dropout_mask((len(self.values),), rate, generators[0])
        return SparseRows(self.values * mask / keep_rate, self.pattern)

    def map_values(self, change: Callable[[Tensor], Tensor]) -> "SparseRows":
        return SparseRows(change(self.values), self.pattern)

    def to_dtype(self, dtype: torch.dtype) -> "SparseRows":
        return SparseRows(self.values.to(dtype), self.pattern)

    def scale_rows(self, factor_n: Tensor) -> "SparseRows":
        return SparseRows(self.values * factor_n.repeat_interleave(self.pattern.counts_n), self.pattern)

    def row_sums(self) -> Tensor:
        return self._over_genes(self._wide())

    def row_square_sums(self) -> Tensor:
        return self._over_genes(self._wide().square())

    def block(self, start: int, stop: int) -> Tensor:
        offsets = self.pattern.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        part = (self.values[first:last].numpy(), self.pattern.indices[first:last].numpy(), (offsets - first).numpy())
        return torch.from_numpy(sp.csr_matrix(part, shape=(stop - start, self.shape[1])).toarray())

    def _wide(self) -> Tensor:
        """Values in the type in which they are summed."""
        return self.values.to(torch.promote_types(self.values.dtype, torch.float32))

    def _over_genes(self, values: Tensor) -> Tensor:
        return torch.segment_reduce(values, "sum", lengths=self.pattern.counts_n, initial=0.0)


def _sum_rows(table: Tensor, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """Row i: the sum of table rows ``indices[offsets[i]:offsets[i+1]]`` weighted by ``values``.

    This is the product of a CSR matrix with a dense one, for which ``embedding_bag`` is several times faster than the
    sparse matrices of torch and SciPy.
    """
    with torch.no_grad():  # no gradient with respect to the table is prepared
        sums = embedding_bag(
            indices, table.to(values.dtype), offsets, mode="sum", per_sample_weights=values, include_last_offset=True
        )
    return sums.to(table.dtype)
