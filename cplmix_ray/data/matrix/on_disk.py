"""Rows that stay in their file: what is passed around says where they are and what is done to them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from cplmix_ray.data.matrix.hdf5_matrix import Block, Layout, MatrixFile
from cplmix_ray.data.matrix.scan import Facts, scan_rows

NO_MATRIX = "The cells stay on disk: what is written holds obs, obsm, uns and the results, and no expression."
SAMPLE = 20_000
"""Cells that stand for all where a method needs them in memory: ranking genes, finding components, validation."""
_LEAST, _SAMPLE_BYTES = 2_000, 400 << 20
"""Cells of a sample at least, and bytes at most."""
_BUFFER_CELLS, _BUFFER_BYTES = 65_536, 256 << 20
"""Cells that a buffer holds at most, and bytes; two buffers are there at a time."""


class ReadRows(ABC):
    """Cells that are not a matrix in memory, but of which some rows can be had."""

    @abstractmethod
    def rows(self, idx_n: np.ndarray) -> Block:
        """Some rows, CSR or dense."""


@dataclass(frozen=True, eq=False)
class RowsOnDisk(ReadRows):
    """n cells of g genes in a file: small, picklable, and opened anew by each process that reads them.

    Attributes:
        kept_n: rows of the file that these are, None for all.
        genes: columns of the file that these are, None for all.
        prepare: what is done to rows with all their genes, None where they are as they are stored.
        facts: of the kept rows with all genes, as they are stored; None before the pass over them.
    """

    layout: Layout
    kept_n: np.ndarray | None = None
    genes: np.ndarray | None = None
    prepare: Callable[[Block], Block] | None = None
    facts: Facts | None = field(default=None, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        n = self.layout.shape[0] if self.kept_n is None else len(self.kept_n)
        return n, self.layout.shape[1] if self.genes is None else len(self.genes)

    @property
    def known(self) -> Facts:
        """The facts, found in a pass over the rows where nobody asked for them before."""
        self.scan()
        assert self.facts is not None
        return self.facts

    def scan(self, show: Callable[[int, int], None] = lambda done, of: None) -> None:
        """Find the facts, unless they are known.

        Args:
            show: told how many of how many cells were looked at, again and again.

        Raises:
            InputError: the file is gone or broken.
        """
        if self.facts is None:
            assert self.genes is None and self.prepare is None
            with self.opened() as read:
                # The rows stay what they are; that this is known of them spares a second pass.
                object.__setattr__(self, "facts", scan_rows(self.layout, self.shape[0], read, show))

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value as they are stored, over all genes; what is done to rows keeps their signs."""
        return self.known.smallest, self.known.largest

    @property
    def bytes_a_row(self) -> float:
        """What a row of these genes takes in memory on average, prepared."""
        if not self.layout.sparse:
            return 4.0 * self.shape[1]
        stored_g = self.known.stored_g if self.genes is None else self.known.stored_g[self.genes]
        return max(1.0, 8.0 * float(stored_g.sum()) / max(1, self.shape[0]))

    @property
    def buffer_cells(self) -> int:
        """Cells of these genes that fit into one buffer."""
        return max(1, min(_BUFFER_CELLS, int(_BUFFER_BYTES / self.bytes_a_row)))

    def take(self, idx_n: np.ndarray) -> "RowsOnDisk":
        """Some of the rows alone; what was known of all is not known of them."""
        return replace(self, kept_n=idx_n if self.kept_n is None else self.kept_n[idx_n], facts=None)

    def choose(self, genes: np.ndarray) -> "RowsOnDisk":
        """Some of the genes alone."""
        return replace(self, genes=genes if self.genes is None else self.genes[genes])

    def prepared(self, prepare: Callable[[Block], Block]) -> "RowsOnDisk":
        """The same rows with ``prepare`` done to them whenever they are read, before genes are chosen."""
        assert self.prepare is None
        return replace(self, prepare=prepare)

    @property
    def sample_cells(self) -> int:
        """Cells of these genes that may be in memory where a method needs some that stand for all."""
        return max(_LEAST, min(SAMPLE, int(_SAMPLE_BYTES / self.bytes_a_row)))

    def drawn(self, n: int, seed: int) -> np.ndarray:
        """Which of ``n`` cells stand for all of them: all, or a random sample, ascending."""
        most = self.sample_cells
        return np.arange(n) if n <= most else np.sort(np.random.default_rng([seed, 0x5A301]).choice(n, most, False))

    def rows(self, idx_n: np.ndarray) -> Block:
        """Some rows, CSR or dense.

        Raises:
            InputError: the file is gone or broken.
        """
        with self.opened() as read:
            return read(idx_n)

    @contextmanager
    def opened(self) -> Iterator[Callable[[np.ndarray], Block]]:
        """``rows`` for many reads of a file that is opened once."""
        with MatrixFile(self.layout) as file:
            yield lambda idx_n: self._read(file, idx_n)

    def _read(self, file: MatrixFile, idx_n: np.ndarray) -> Block:
        in_file_n = idx_n if self.kept_n is None else self.kept_n[idx_n]
        ascending = len(in_file_n) < 2 or bool((np.diff(in_file_n) > 0).all())
        sorted_n, back_n = (in_file_n, None) if ascending else np.unique(in_file_n, return_inverse=True)
        block = file.read(sorted_n)
        if self.prepare is not None:
            block = self.prepare(block)
        if self.genes is not None:
            block = block[:, self.genes]
        return block if back_n is None else block[back_n]


def choose_genes(values_ng: Block | RowsOnDisk, genes: np.ndarray) -> Block | RowsOnDisk:
    """Some columns of values wherever they are."""
    return values_ng.choose(genes) if isinstance(values_ng, RowsOnDisk) else values_ng[:, genes]
