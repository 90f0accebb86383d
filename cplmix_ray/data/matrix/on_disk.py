"""A matrix that stays in its file: the object says where the values are and what is done to them when they are read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.block import Block, contiguous
from cplmix_ray.data.matrix.hdf5_matrix import HDF5Layout, HDF5Matrix
from cplmix_ray.data.matrix.statistics import MatrixStatistics, compute_statistics
from cplmix_ray.utils.errors import InputError

SAMPLE = 20_000
"""Cells that stand for all where a method needs them in memory: ranking genes, finding components, validation."""
_LEAST, _SAMPLE_BYTES = 2_000, 400 << 20
"""Cells of a sample at least, and bytes at most."""
_BUFFER_CELLS, _BUFFER_BYTES = 65_536, 256 << 20
"""Cells that a buffer holds at most, and bytes; two buffers are there at a time."""


@dataclass(frozen=True, eq=False)
class OnDiskMatrix(Matrix):
    """n cells x g genes in a file; small to pickle, and opened by each process that reads rows.

    Attributes:
        kept_n: rows of the file that these are, None for all.
        genes: columns of the file that these are, None for all.
        prepare: what is done to rows with all their genes, None where they are as they are stored.
        known: statistics of the kept rows with all genes, as they are stored; None before the pass over them.
    """

    layout: HDF5Layout
    kept_n: np.ndarray | None = None
    genes: np.ndarray | None = None
    prepare: Callable[[Block], Block] | None = None
    known: MatrixStatistics | None = field(default=None, repr=False)

    on_disk = True
    note = "The cells stay on disk: what is written holds obs, obsm, uns and the results, and no expression."

    @property
    def shape(self) -> tuple[int, int]:
        n = self.layout.shape[0] if self.kept_n is None else len(self.kept_n)
        return n, self.layout.shape[1] if self.genes is None else len(self.genes)

    @property
    def dtype(self) -> np.dtype:
        return self.layout.dtype if self.prepare is None else np.dtype(np.float32)

    @property
    def sparse(self) -> bool:
        return self.layout.sparse

    @property
    def statistics(self) -> MatrixStatistics:
        """Statistics of the values as they are stored, over all genes; preparation keeps the signs of the limits."""
        self.scan()
        assert self.known is not None
        return self.known

    def scan(self, show: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Compute the statistics in a pass over the rows, unless they are known.

        Args:
            show: called with the numbers of rows done and of all rows, again and again.

        Raises:
            InputError: the file is gone or broken.
        """
        if self.known is not None:
            return
        assert self.genes is None and self.prepare is None
        row_bytes = self.layout.n_bytes // max(1, self.layout.shape[0])
        with self.opened() as read:
            known = compute_statistics(
                self.shape, row_bytes, lambda start, stop: self._checked(read(np.arange(start, stop))), show
            )
        # The rows stay what they are; keeping this spares a second pass.
        object.__setattr__(self, "known", known)

    def _checked(self, block: Block) -> Block:
        g = self.layout.shape[1]
        if sp.issparse(block) and block.nnz and not 0 <= block.indices.min() <= block.indices.max() < g:
            raise InputError(f"{self.layout.path} is damaged: {self.layout.key}/indices names genes beyond its {g}.")
        return block

    @property
    def bytes_a_row(self) -> float:
        """Mean bytes of a row of these genes in memory, prepared."""
        if not self.layout.sparse:
            return 4.0 * self.shape[1]
        stored_g = self.statistics.stored_g if self.genes is None else self.statistics.stored_g[self.genes]
        return max(1.0, 8.0 * float(stored_g.sum()) / max(1, self.shape[0]))

    @property
    def buffer_cells(self) -> int:
        return max(1, min(_BUFFER_CELLS, int(_BUFFER_BYTES / self.bytes_a_row)))

    @property
    def sample_cells(self) -> int:
        return max(_LEAST, min(SAMPLE, int(_SAMPLE_BYTES / self.bytes_a_row)))

    def take(self, idx_n: np.ndarray) -> "OnDiskMatrix":
        """Some of the rows alone; the statistics of all are not theirs."""
        return replace(self, kept_n=idx_n if self.kept_n is None else self.kept_n[idx_n], known=None)

    def choose(self, genes: np.ndarray) -> "OnDiskMatrix":
        return replace(self, genes=genes if self.genes is None else self.genes[genes])

    def prepared(self, prepare: Callable[[Block], Block]) -> "OnDiskMatrix":
        """The same rows with ``prepare`` applied whenever they are read, before genes are chosen."""
        assert self.prepare is None
        return replace(self, prepare=prepare)

    def rows(self, idx_n: np.ndarray) -> Block:
        with self.opened() as read:
            return contiguous(read(idx_n))

    @contextmanager
    def opened(self) -> Iterator[Callable[[np.ndarray], Block]]:
        with HDF5Matrix(self.layout) as file:
            yield lambda idx_n: self._read(file, idx_n)

    def _read(self, file: HDF5Matrix, idx_n: np.ndarray) -> Block:
        in_file_n = idx_n if self.kept_n is None else self.kept_n[idx_n]
        ascending = len(in_file_n) < 2 or bool((np.diff(in_file_n) > 0).all())
        sorted_n, back_n = (in_file_n, None) if ascending else np.unique(in_file_n, return_inverse=True)
        block = file.read(sorted_n)
        if self.prepare is not None:
            block = self.prepare(block)
        if self.genes is not None:
            block = block[:, self.genes]
        return block if back_n is None else block[back_n]
