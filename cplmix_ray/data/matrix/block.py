"""Blocks of rows in memory, and statistics of a matrix that is read block by block."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

Block: TypeAlias = Any
"""Rows in memory: a dense array or a CSR matrix, for which SciPy has no useful static type."""

BLOCK_BYTES = 64 << 20
"""Bytes of a block that is looked at at once."""


@dataclass(frozen=True)
class MatrixStatistics:
    """What has to be known of all values of a matrix before training.

    Attributes:
        limits: smallest and largest value, the zeros that a sparse matrix does not store included.
        counts: whether all values are whole numbers and none is negative.
        n_bad, first_bad: number of values that are NaN or infinite, and (row, gene) of the first. Where there are any,
            the other statistics leave out their blocks.
        library: median sum of the rows whose sum is positive; 1 where none is.
        stored_g: number of values of each gene that are not zero.
    """

    limits: tuple[float, float]
    counts: bool
    n_bad: int
    first_bad: tuple[int, int] | None
    library: float
    stored_g: np.ndarray


def compute_statistics(
    shape: tuple[int, int],
    row_bytes: float,
    read: Callable[[int, int], Block],
    show: Callable[[int, int], None] = lambda done, of: None,
) -> MatrixStatistics:
    """Compute the statistics in one pass.

    Args:
        row_bytes: of a row as it is stored, which decides how many are read at once.
        read: returns the rows from one index to another.
        show: called with the numbers of rows done and of all rows, again and again.
    """
    n, g = shape
    tally, step = _Tally(g), int(np.clip(BLOCK_BYTES // max(1, int(row_bytes)), 1, 20_000))
    for start in range(0, n, step):
        show(start, n)
        tally.add(read(start, min(start + step, n)), start)
    show(n, n)
    return tally.statistics()


def find_not_finite(block: Block) -> tuple[int, tuple[int, int] | None]:
    """How many values are NaN or infinite, and (row, column) of the first."""
    data = block.data if sp.issparse(block) else block
    if data.dtype.kind != "f" or np.isfinite(data).all():
        return 0, None
    values = sp.coo_matrix(block)
    wrong = np.flatnonzero(~np.isfinite(values.data))
    return len(wrong), (int(values.row[wrong[0]]), int(values.col[wrong[0]]))


def contiguous(block: Block) -> Block:
    """The same rows, dense ones in C order."""
    return block if sp.issparse(block) else np.ascontiguousarray(block)


def native_numbers(block: Block) -> Block:
    """The same values in types that SciPy and PyTorch know.

    They come in the machine's byte order, float16 as float32 and wider floats as float64; a sparse matrix in canonical
    format, with signed native indices.
    """
    if block.dtype.kind == "f" and block.dtype.itemsize not in (4, 8):
        block = block.astype(np.float32 if block.dtype.itemsize == 2 else np.float64)
    elif not block.dtype.isnative:
        block = block.astype(block.dtype.newbyteorder("="))
    if sp.issparse(block) and not (block.indices.dtype.isnative and block.indices.dtype.kind == "i"):
        wide = np.int64 if block.indices.dtype.itemsize > 4 else np.int32
        parts = (block.data, block.indices.astype(wide), block.indptr.astype(wide))
        block = sp.csr_matrix(parts, shape=block.shape)
    if sp.issparse(block) and not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    return block


class _Tally:
    def __init__(self, g: int):
        self.smallest, self.largest, self.counts = np.inf, -np.inf, True
        self.n_bad, self.first_bad = 0, None  # type: int, tuple[int, int] | None
        self.libraries: list[np.ndarray] = []
        self.stored_g = np.zeros(g, np.int64)

    def add(self, block: Block, start: int) -> None:
        data = block.data if sp.issparse(block) else block
        n_bad, first = find_not_finite(block)
        if first is not None:
            self.n_bad += n_bad
            self.first_bad = self.first_bad or (start + first[0], first[1])
            return  # the data will be refused, so nothing else of them is needed
        low, high = (float(data.min()), float(data.max())) if data.size else (0.0, 0.0)
        if sp.issparse(block):
            self.stored_g += np.bincount(block.indices, minlength=len(self.stored_g))
            if block.nnz < block.shape[0] * block.shape[1]:
                low, high = min(low, 0.0), max(high, 0.0)
        else:
            self.stored_g += (block != 0).sum(axis=0)
        self.smallest, self.largest = min(self.smallest, low), max(self.largest, high)
        whole = data.dtype.kind in "uib" or bool(np.all(data == np.rint(data)))
        self.counts = self.counts and low >= 0 and whole
        self.libraries.append(np.asarray(block.sum(axis=1), dtype=np.float64).ravel())

    def statistics(self) -> MatrixStatistics:
        library_n = np.concatenate(self.libraries) if self.libraries else np.zeros(0)
        seen_n = library_n[library_n > 0]
        library = float(np.median(seen_n)) if len(seen_n) else 1.0
        limits = self.smallest, self.largest
        return MatrixStatistics(limits, self.counts, self.n_bad, self.first_bad, library, self.stored_g)
