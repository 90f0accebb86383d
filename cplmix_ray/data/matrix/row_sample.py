"""Rows at even distances through a matrix, from whose values it can be told what they measure."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.block import Block

SAMPLED = 1000
"""Rows that are looked at, at most twice as many."""
LARGEST_LOGARITHM = 50.0
"""e^50 molecules or more are in no cell."""
BASES = (None, float(np.e), 2.0, 10.0)
"""Bases of logarithms of 1 + x that may have been taken; None stands for none."""
_NEAR_WHOLE, _MULTIPLES = 0.05, (1.5, 50.0)
"""Tolerance within which a value counts as a whole number; range of the ratios to the smallest value of a row that are
tested for being whole numbers."""


@dataclass(frozen=True)
class Totals:
    """Sums of rows: their number, median, standard deviation in units of the mean, and largest."""

    n: int
    median: float
    spread: float
    largest: float

    @classmethod
    def of(cls, totals_n: np.ndarray) -> "Totals":
        mean = float(totals_n.mean()) if len(totals_n) else 0.0
        if mean == 0:
            return cls(len(totals_n), 0.0, np.inf, 0.0)
        return cls(len(totals_n), float(np.median(totals_n)), float(totals_n.std() / abs(mean)), float(totals_n.max()))


@dataclass(frozen=True)
class RowSample:
    """Statistics of the sampled rows that hold a value other than zero.

    Where a base is a key, they are those of the values from which 1 is subtracted after raising the base to them: what
    was there before a logarithm of 1 + x.

    Attributes:
        totals: base -> sums of the rows.
        multiples: base -> share of the values that are whole multiples of the smallest value of their row, as counts
            that were scaled are; NaN where too few values could show it.
        near_whole: share of the values other than zero within 0.05 of a whole number.
        mean: mean of the values other than zero.
        at_floor: share of all values that equal the smallest of their row.
    """

    totals: dict[float | None, Totals]
    multiples: dict[float | None, float]
    near_whole: float
    mean: float
    at_floor: float


class RowSampler:
    """Collects a :class:`RowSample` from blocks of rows."""

    def __init__(self, n_rows: int):
        self._every = max(1, n_rows // SAMPLED)
        self._totals: dict[float | None, list[np.ndarray]] = {base: [] for base in BASES}
        self._multiples = {base: np.zeros(2) for base in BASES}
        self._near_whole, self._sum, self._at_floor = (np.zeros(2) for _ in range(3))  # each with what it is part of

    def add(self, block: Block, start: int) -> None:
        """Look at the sampled rows of a block, whose first row is row ``start`` of the matrix."""
        rows = sp.csr_matrix(block[-start % self._every :: self._every], dtype=np.float64)
        rows.eliminate_zeros()
        rows = rows[np.diff(rows.indptr) > 0]
        if not rows.nnz:
            return
        n_g, starts_n = np.diff(rows.indptr), rows.indptr[:-1]
        floor_n = np.minimum.reduceat(rows.data, starts_n)
        floor_n = np.where(n_g < rows.shape[1], np.minimum(floor_n, 0.0), floor_n)
        n_zeros = int((rows.shape[1] - n_g)[floor_n == 0].sum())
        self._at_floor += n_zeros + int((rows.data == np.repeat(floor_n, n_g)).sum()), rows.shape[0] * rows.shape[1]
        self._near_whole += _n_whole(rows.data, _NEAR_WHOLE), rows.nnz
        self._sum += rows.data.sum(), rows.nnz
        # Of rounded values, all are multiples of the last decimal place.
        rounded = _n_whole(1000 * rows.data, 1e-2) == rows.nnz > _n_whole(rows.data, 1e-5)
        for base in BASES:
            values = rows.data if base is None else np.expm1(rows.data.clip(-50, LARGEST_LOGARITHM) * np.log(base))
            self._totals[base].append(np.add.reduceat(values, starts_n))
            if rounded and base is None:
                continue
            smallest_n = np.minimum.reduceat(values, starts_n)
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                ratios = values / np.repeat(smallest_n, n_g)
            ratios = ratios[(ratios > _MULTIPLES[0]) & (ratios < _MULTIPLES[1])]
            self._multiples[base] += _n_whole(ratios, 0.02), len(ratios)

    def sample(self) -> RowSample:
        """What was seen."""
        return RowSample(
            {base: Totals.of(np.concatenate([np.zeros(0), *found])) for base, found in self._totals.items()},
            {base: float(hits / of) if of >= 20 else np.nan for base, (hits, of) in self._multiples.items()},
            *(float(part / max(1, whole)) for part, whole in (self._near_whole, self._sum, self._at_floor)),
        )


def _n_whole(values: np.ndarray, tolerance: float) -> int:
    return int((np.abs(values - np.rint(values)) < tolerance).sum())
