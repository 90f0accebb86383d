"""One pass over rows on disk, for all that has to be known of them before training."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.hdf5_matrix import Block, Layout
from cplmix_ray.utils.errors import InputError

BLOCK_BYTES = 64 << 20
"""What is read at once, as it is stored."""


@dataclass(frozen=True)
class Facts:
    """What one pass over the values as they are stored tells of them.

    Attributes:
        smallest, largest: over all values, those that a sparse matrix does not store included.
        counts: whether all are whole numbers and none is negative.
        n_bad, first_bad: values that are NaN or infinite, and (row, gene) of the first.
        library: median sum of the rows whose sum is positive; 1 where none is.
        stored_g: values that are not zero, of each gene.
    """

    smallest: float
    largest: float
    counts: bool
    n_bad: int
    first_bad: tuple[int, int] | None
    library: float
    stored_g: np.ndarray


def scan_rows(layout: Layout, n: int, read: Callable[[np.ndarray], Block], show: Callable[[int, int], None]) -> Facts:
    """Look at ``n`` rows, given by ``read`` as they are stored.

    Raises:
        InputError: the file is broken.
    """
    tally, g = _Tally(layout.shape[1]), layout.shape[1]
    each = max(1, layout.n_bytes // max(1, layout.shape[0]))
    step = int(np.clip(BLOCK_BYTES // each, 1, 20_000))
    for at in range(0, n, step):
        show(at, n)
        block = read(np.arange(at, min(at + step, n)))
        if sp.issparse(block) and block.nnz and not 0 <= block.indices.min() <= block.indices.max() < g:
            raise InputError(f"{layout.path} is damaged: {layout.key}/indices names genes beyond its {g}.")
        tally.add(block, at)
    show(n, n)
    return tally.facts()


def not_finite(block: Block) -> tuple[int, tuple[int, int] | None]:
    """How many values are NaN or infinite, and where the first is."""
    data = block.data if sp.issparse(block) else block
    if data.dtype.kind != "f" or np.isfinite(data).all():
        return 0, None
    values = sp.coo_matrix(block)
    wrong = np.flatnonzero(~np.isfinite(values.data))
    return len(wrong), (int(values.row[wrong[0]]), int(values.col[wrong[0]]))


class _Tally:
    def __init__(self, g: int):
        self.smallest, self.largest, self.counts = np.inf, -np.inf, True
        self.n_bad, self.first_bad = 0, None  # type: int, tuple[int, int] | None
        self.libraries: list[np.ndarray] = []
        self.stored_g = np.zeros(g, np.int64)

    def add(self, block: Block, at: int) -> None:
        data = block.data if sp.issparse(block) else block
        n_bad, first = not_finite(block)
        if first is not None:
            self.n_bad += n_bad
            self.first_bad = self.first_bad or (at + first[0], first[1])
            return  # the data will be refused: nothing else of them is asked
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

    def facts(self) -> Facts:
        library_n = np.concatenate(self.libraries) if self.libraries else np.zeros(0)
        seen_n = library_n[library_n > 0]
        library = float(np.median(seen_n)) if len(seen_n) else 1.0
        return Facts(self.smallest, self.largest, self.counts, self.n_bad, self.first_bad, library, self.stored_g)
