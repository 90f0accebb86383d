"""Statistics of a matrix that is read block by block."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.block import Block, find_not_finite
from cplmix_ray.data.matrix.content_hash import ContentHash
from cplmix_ray.data.matrix.row_sample import RowSample, RowSampler

BLOCK_BYTES = 64 << 20
"""Bytes of a block that is looked at at once."""


@dataclass(frozen=True)
class GeneMoments:
    """Summary of the means and standard deviations of the genes that are not constant.

    Attributes:
        n_cells: rows from which this is computed; values that are all whole numbers are not looked at.
        largest_mean: 90th percentile of a gene's absolute mean in units of its standard deviation.
        sd: median and 98th percentile of the standard deviations.
        unit_sd: share of the genes whose standard deviation is within 5 % of 1.
    """

    n_cells: int
    largest_mean: float
    sd: tuple[float, float]
    unit_sd: float


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
        rows: statistics of rows at even distances; None of matrices that are not looked at.
        genes: means and standard deviations of genes; None of matrices that are not looked at.
        content: hash of all values; "" of matrices that are not looked at.
    """

    limits: tuple[float, float]
    counts: bool
    n_bad: int
    first_bad: tuple[int, int] | None
    library: float
    stored_g: np.ndarray
    rows: RowSample | None = None
    genes: GeneMoments | None = None
    content: str = ""


@np.errstate(over="ignore", invalid="ignore")  # of values that are too large, which are refused afterwards
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
    tally, step = _Tally(n, g), int(np.clip(BLOCK_BYTES // max(1, int(row_bytes)), 1, 20_000))
    for start in range(0, n, step):
        show(start, n)
        tally.add(read(start, min(start + step, n)), start)
    show(n, n)
    return tally.statistics()


class _Tally:
    def __init__(self, n: int, g: int):
        self.smallest, self.largest, self.counts = np.inf, -np.inf, True
        self.n_bad, self.first_bad = 0, None  # type: int, tuple[int, int] | None
        self.libraries: list[np.ndarray] = []
        self.stored_g = np.zeros(g, np.int64)
        self.sampler = RowSampler(n)
        self.content = ContentHash()
        self.n_summed, self.sum_g, self.squares_g = 0, np.zeros(g), np.zeros(g)

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
        self.sampler.add(block, start)
        self.content.add(block)
        if not self.counts:
            self._add_moments(block)

    def _add_moments(self, block: Block) -> None:
        self.n_summed += block.shape[0]
        if sp.issparse(block):
            values, g = block.data.astype(np.float64), len(self.sum_g)
            self.sum_g += np.bincount(block.indices, values, g)
            self.squares_g += np.bincount(block.indices, values**2, g)
        else:
            self.sum_g += block.sum(axis=0, dtype=np.float64)
            self.squares_g += np.einsum("ng,ng->g", block, block, dtype=np.float64)

    def _moments(self) -> GeneMoments | None:
        n = self.n_summed
        if n < 2:
            return None
        mean_g = self.sum_g / n
        sd_g = np.sqrt(np.maximum(self.squares_g - n * mean_g**2, 0) / (n - 1))
        varies = sd_g > 1e-6 * np.maximum(1e-6, np.abs(mean_g))
        if not varies.any():
            return None
        mean_g, sd_g = mean_g[varies], sd_g[varies]
        largest_mean = float(np.quantile(np.abs(mean_g) / sd_g, 0.9))
        median, high = np.quantile(sd_g, [0.5, 0.98])
        return GeneMoments(n, largest_mean, (float(median), float(high)), float((np.abs(sd_g - 1) < 0.05).mean()))

    def statistics(self) -> MatrixStatistics:
        library_n = np.concatenate(self.libraries) if self.libraries else np.zeros(0)
        seen_n = library_n[library_n > 0]
        library = float(np.median(seen_n)) if len(seen_n) else 1.0
        limits = self.smallest, self.largest
        return MatrixStatistics(
            limits,
            self.counts,
            self.n_bad,
            self.first_bad,
            library,
            self.stored_g,
            self.sampler.sample(),
            self._moments(),
            self.content.hexdigest(),
        )
