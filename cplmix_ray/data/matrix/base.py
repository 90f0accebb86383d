"""The interface of a matrix of cells x genes (or images x pixels), wherever its values are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.matrix.statistics import MatrixStatistics


class RowReader(ABC):
    """Gives rows by their indices."""

    @abstractmethod
    def rows(self, idx_n: np.ndarray) -> Block:
        """Rows ``idx_n``, in their order: a C-contiguous array or a CSR matrix.

        Raises:
            InputError: they are in a file that is gone or broken.
        """

    def dense_rows(self, idx_n: np.ndarray) -> np.ndarray:
        """The same rows as a dense array."""
        rows = self.rows(idx_n)
        return rows.toarray() if sp.issparse(rows) else rows

    @property
    def dense_array(self) -> np.ndarray | None:
        """All rows as one dense array, where they are in memory as one; rows can then be gathered without a copy."""
        return None


class Matrix(RowReader):
    """n cells x g genes. A matrix is never changed, and can be pickled; NumPy's buffers are then passed on as they are.

    Attributes:
        on_disk: rows are read from a file, best many at a time and ahead of their use.
        on_demand: rows are computed when they are read, as float32 that needs no preparation.
        note: what a user should know of results that are written beside such a matrix; None where there is nothing.
    """

    on_disk: ClassVar[bool] = False
    on_demand: ClassVar[bool] = False
    note: ClassVar[str | None] = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(cells, genes)."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype:
        """Type of the values."""

    @property
    @abstractmethod
    def sparse(self) -> bool:
        """Whether rows come as CSR."""

    @property
    @abstractmethod
    def statistics(self) -> MatrixStatistics:
        """Statistics of all values, computed once. On disk they are those of the stored values of all genes."""

    @abstractmethod
    def take(self, idx_n: np.ndarray) -> "Matrix":
        """The matrix of the rows ``idx_n`` alone."""

    @abstractmethod
    def choose(self, genes: np.ndarray) -> "Matrix":
        """The matrix of the columns ``genes`` alone."""

    @abstractmethod
    def prepared(self, prepare: Callable[[Block], Block]) -> "Matrix":
        """The matrix with ``prepare`` applied to blocks of its rows, which makes float32 of them."""

    @property
    def n_cells(self) -> int:
        return self.shape[0]

    def block(self) -> Block:
        """All rows in memory."""
        return self.rows(np.arange(self.n_cells))

    def scan(self, show: Callable[[int, int], None]) -> None:
        """Compute the statistics now where that takes long; ``show`` is called with the rows done and all rows."""

    @contextmanager
    def opened(self) -> Iterator[Callable[[np.ndarray], Block]]:
        """``rows`` for many reads, for which a file is opened once; dense rows may have another memory order."""
        yield self.rows

    @property
    def sample_cells(self) -> int:
        """Cells that may be in memory at once where a method needs some that stand for all."""
        return self.n_cells

    @property
    def buffer_cells(self) -> int:
        """Cells that one of the buffers holds through which rows are read in training."""
        return self.n_cells

    def draw_sample(self, n: int, seed: int) -> np.ndarray:
        """Which of ``n`` cells stand for all of them: all, or a random sample of ``sample_cells``, ascending."""
        most = self.sample_cells
        return np.arange(n) if n <= most else np.sort(np.random.default_rng([seed, 0x5A301]).choice(n, most, False))
