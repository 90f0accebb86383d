"""Rows of which only the values that are not zero are written out: what is zero costs nothing."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from cplmix_ray.nn.dropout_masks import kept
from cplmix_ray.nn.rows import Rows

DENSE_FROM = 0.35
"""Share of values that are not zero from which a dense product is the faster one; measured with 100 hidden units."""


class Layout:
    """Where the values stand: the CSR form, and, when it is asked for, that of the transposed matrix.

    Args:
        indices: gene of each value, int32; offsets: where each cell's values begin and, last, end.
        shape: (n, g).
    """

    def __init__(self, indices: Tensor, offsets: Tensor, shape: tuple[int, int]):
        self.indices, self.offsets, self.shape = indices, offsets, shape

    @cached_property
    def counts_n(self) -> Tensor:
        """Values of each cell."""
        return self.offsets.diff()

    @cached_property
    def transposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Cells and offsets of the transposed matrix, and which value stands where in it."""
        numbers = np.arange(len(self.indices), dtype=np.int32)
        by_gene = sp.csr_matrix((numbers, self.indices.numpy(), self.offsets.numpy()), shape=self.shape).tocsc()
        return torch.from_numpy(by_gene.indices), torch.from_numpy(by_gene.indptr), torch.from_numpy(by_gene.data)


class SparseRows(Rows):
    """Values that are not zero, on the CPU.

    Args:
        values: shape (m,), cell by cell.
        layout: where they stand; shared by rows whose values alone differ.
    """

    def __init__(self, values: Tensor, layout: Layout):
        self.values, self.layout = values, layout
        self.shape, self.dtype = layout.shape, values.dtype

    @classmethod
    def from_csr(cls, matrix: sp.csr_matrix) -> "SparseRows":
        """Take over a CSR matrix of SciPy."""
        indices = torch.from_numpy(matrix.indices.astype(np.int32, copy=False))
        offsets = torch.from_numpy(matrix.indptr.astype(np.int32, copy=False))
        return cls(torch.from_numpy(matrix.data), Layout(indices, offsets, matrix.shape))

    def times(self, weight_gh: Tensor) -> Tensor:
        return _sum_rows(weight_gh.detach().contiguous(), self.layout.indices, self.layout.offsets, self.values)

    def transposed_times(self, d_nh: Tensor) -> Tensor:
        cells, offsets, order = self.layout.transposed
        return _sum_rows(d_nh.contiguous(), cells, offsets, self.values.index_select(0, order))

    def hidden(self, rate: float, generators: Sequence[torch.Generator]) -> "SparseRows":
        if rate == 0.0:
            return self
        mask, chance = kept((len(self.values),), rate, generators[0])
        return SparseRows(self.values * mask / chance, self.layout)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "SparseRows":
        return SparseRows(change(self.values), self.layout)

    def in_precision(self, dtype: torch.dtype) -> "SparseRows":
        return SparseRows(self.values.to(dtype), self.layout)

    def scaled(self, factor_n: Tensor) -> "SparseRows":
        return SparseRows(self.values * factor_n.repeat_interleave(self.layout.counts_n), self.layout)

    def totals(self) -> Tensor:
        return self._over_genes(self._wide())

    def squares(self) -> Tensor:
        return self._over_genes(self._wide().square())

    def block(self, start: int, stop: int) -> Tensor:
        offsets = self.layout.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        part = (self.values[first:last].numpy(), self.layout.indices[first:last].numpy(), (offsets - first).numpy())
        return torch.from_numpy(sp.csr_matrix(part, shape=(stop - start, self.shape[1])).toarray())

    def _wide(self) -> Tensor:
        """Values in the type of their sums."""
        return self.values.to(torch.promote_types(self.values.dtype, torch.float32))

    def _over_genes(self, values: Tensor) -> Tensor:
        return torch.segment_reduce(values, "sum", lengths=self.layout.counts_n, initial=0.0)


def _sum_rows(table: Tensor, indices: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
    """Row i: the sum of table rows ``indices[offsets[i]:offsets[i+1]]`` weighted by ``values``.

    That is a CSR matrix times a dense one; torch's bag of embeddings does it several times as fast as its sparse
    matrices and SciPy's.
    """
    with torch.no_grad():  # or it would prepare for a gradient by the table
        sums = embedding_bag(
            indices, table.to(values.dtype), offsets, mode="sum", per_sample_weights=values, include_last_offset=True
        )
    return sums.to(table.dtype)
