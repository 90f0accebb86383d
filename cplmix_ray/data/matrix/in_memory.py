"""A matrix in memory, dense or CSR."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.block import Block, contiguous
from cplmix_ray.data.matrix.statistics import MatrixStatistics, compute_statistics


@dataclass(frozen=True, eq=False)
class InMemoryMatrix(Matrix):
    """A dense array or a CSR matrix.

    Attributes:
        values: shape (n, g); may lie in shared memory, and is never changed.
    """

    values: Block

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    @property
    def sparse(self) -> bool:
        return sp.issparse(self.values)

    @cached_property
    def statistics(self) -> MatrixStatistics:  # type: ignore[override]
        data = self.values.data if self.sparse else self.values
        return compute_statistics(
            self.shape, data.nbytes / max(1, self.n_cells), lambda start, stop: self.values[start:stop]
        )

    def rows(self, idx_n: np.ndarray) -> Block:
        return contiguous(self.values[idx_n])

    @property
    def dense_array(self) -> np.ndarray | None:
        return None if self.sparse else self.values

    def block(self) -> Block:
        return self.values

    def take(self, idx_n: np.ndarray) -> "InMemoryMatrix":
        return InMemoryMatrix(self.values[idx_n])

    def choose(self, genes: np.ndarray) -> "InMemoryMatrix":
        return InMemoryMatrix(self.values[:, genes])

    def prepared(self, prepare: Callable[[Block], Block]) -> "InMemoryMatrix":
        return InMemoryMatrix(prepare(self.values))
