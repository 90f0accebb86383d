"""Telling from its statistics what the values of a matrix of cells are."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cplmix_ray.data.matrix.row_sample import BASES, LARGEST_LOGARITHM, RowSample, Totals
from cplmix_ray.data.matrix.statistics import GeneMoments, MatrixStatistics
from cplmix_ray.data.source import Source

ValueKind = Literal["counts", "linear_expression", "proportions", "log_expression", "scaled", "residuals"]
KINDS: tuple[ValueKind, ...] = get_args(ValueKind)
WORDS: dict[ValueKind, str] = {
    "counts": "raw counts",
    "linear_expression": "expression that is no logarithm",
    "proportions": "proportions",
    "log_expression": "log-expression",
    "scaled": "scaled values",
    "residuals": "residuals",
}
LINEAR: tuple[ValueKind, ...] = ("counts", "linear_expression", "proportions")
"""Kinds that are proportional to numbers of molecules, so that cells can be scaled and a logarithm taken."""
CENTRED: tuple[ValueKind, ...] = ("scaled", "residuals")
"""Kinds in which the mean of a gene is about zero, and the values of a cell depend on all other cells."""

_LARGEST_LOG2 = 20.5
"""log2(1 + x) of a million molecules in one gene."""
_EXACT = 1e-5
"""Relative error of sums of 32-bit numbers."""
_ROUND_TOTALS = (1.0, 100.0, 1e4, 1e5, 1e6)
"""What cells are usually scaled to, which is recognised in a single cell too."""


@dataclass(frozen=True)
class Values:
    """The kind of the values of a matrix, such as raw counts or log-expression, and how it was recognised.

    Attributes:
        kind: counts: whole numbers. linear_expression: in proportion to counts, such as CPM, TPM, RPKM or corrected
            counts. proportions: the same in parts of 1. log_expression: logarithms of one of these plus a constant,
            perhaps corrected. scaled: each gene divided by its standard deviation. residuals: centred genes of
            different standard deviations.
        details: for messages: what else was seen.
        base: of a logarithm of 1 + x, None where it is none or not known.
        evident: whether the values show this themselves; else it is what most such values are.
    """

    kind: ValueKind
    details: str = ""
    base: float | None = None
    evident: bool = True

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} ({self.details})" if self.details else WORDS[self.kind]


def recognise_values(statistics: MatrixStatistics) -> Values:
    """What the values are, from statistics of a matrix whose values are all finite."""
    smallest, largest = statistics.limits
    rows, genes = statistics.rows, statistics.genes
    if statistics.counts:
        return Values("counts", "zeros and ones" if largest == 1 else "", evident=largest > 0)
    assert rows is not None  # only images are not looked at
    if smallest < 0:
        return _recognise_negative(statistics, rows, genes)
    if genes is not None and genes.n_cells >= 20 and len(statistics.stored_g) >= 5 and genes.unit_sd > 0.9:
        return Values("scaled", "genes have standard deviation 1 and are not centred")
    return _recognise_linear(rows, largest) or _recognise_logarithm(rows, largest)


def hint_of_others(source: Source, kinds: tuple[ValueKind, ...]) -> str:
    """What other matrices of the object hold, of these kinds, and the option that takes the first; "" for none."""
    found = []
    for option, read in source.others.items():
        try:
            matrix = read()
            usable = matrix.dtype.kind in "uifb" and not matrix.statistics.n_bad
        except Exception:  # of any kind, for what an object can hold; nobody asked for this matrix
            continue
        values = recognise_values(matrix.statistics) if usable else None
        if values is not None and values.kind in kinds and values.evident:
            found.append((kinds.index(values.kind), option, f"'{option}' holds {WORDS[values.kind]}", matrix.shape[1]))
    if not found:
        return ""
    found.sort(key=lambda each: each[0])
    listed = ", ".join(f"{words} of {n_genes:,} genes" for _, _, words, n_genes in found)
    return f"{listed}: choose it with --layer '{found[0][1]}'"


def _recognise_negative(statistics: MatrixStatistics, rows: RowSample, genes: GeneMoments | None) -> Values:
    (low, high), smallest = statistics.limits, f"smallest value {statistics.limits[0]:.3g}"
    # What was zero in a cell is its smallest value still, unless genes were centred.
    if genes is None or (rows.at_floor > 0.2 and len(statistics.stored_g) >= 5):
        return Values("log_expression", smallest, evident=genes is not None)
    few_cells = 1 / np.sqrt(genes.n_cells)
    if genes.largest_mean > 1 or (genes.largest_mean > 0.1 + 3 * few_cells and -low < 0.2 * high):
        return Values("log_expression", f"{smallest}, as after a correction", evident=False)
    median_sd, high_sd = genes.sd
    if 0.6 < median_sd < 1.05 and high_sd < 1.1 + few_cells:
        return Values("scaled", "genes have mean 0 and standard deviation 1")
    return Values("residuals", "genes have mean 0 and different standard deviations")


def _recognise_linear(rows: RowSample, largest: float) -> Values | None:
    total = rows.totals[None]
    constant = _same(total, 1e-3)
    if total.largest <= 1.001 and (constant or _is_multiple(rows, None) or rows.mean < 0.1):
        return Values("proportions", "cells sum to 1" if constant else "cells sum to less than 1")
    if constant:
        # Quantile normalisation makes the sums of logarithms equal too, and those of what was there before.
        if largest <= _LARGEST_LOG2 and any(rows.totals[base].spread < _EXACT for base in BASES[1:]):
            return None
        return Values("linear_expression", f"cells sum to {total.median:,.6g}")
    if largest > LARGEST_LOGARITHM or (largest > _LARGEST_LOG2 and largest > 8 * rows.mean):
        near = "most values are nearly whole numbers" if rows.near_whole > 0.5 else f"values up to {largest:g}"
        return Values("linear_expression", near)
    if _is_multiple(rows, None):
        return Values("linear_expression", "scaled counts")
    if rows.near_whole > 0.5 and not any(_is_multiple(rows, base) for base in BASES[1:]):
        return Values("linear_expression", "most values are nearly whole numbers")
    return None


def _recognise_logarithm(rows: RowSample, largest: float) -> Values:
    base = min(BASES[1:], key=lambda base: rows.totals[base].spread)
    if _same(rows.totals[base], 0.02):
        return Values("log_expression", f"{_name(base)} of {rows.totals[base].median:,.5g} in each cell", base)
    for base in BASES[1:]:
        if _is_multiple(rows, base):
            return Values("log_expression", f"{_name(base)} of scaled counts", base)
    return Values("log_expression", f"values up to {largest:.3g}", evident=False)


def _name(base: float | None) -> str:
    return "log1p" if base == np.e else f"log{base:g}(1 + x)"


def _same(total: Totals, tolerance: float) -> bool:
    """Whether all cells have one total; few cells could by chance, up to a rounding error not even those."""
    if total.n >= 10:
        return total.spread < tolerance
    usual = any(abs(total.median / each - 1) < _EXACT for each in _ROUND_TOTALS)
    return total.spread < _EXACT and (total.n > 2 or usual)


def _is_multiple(rows: RowSample, base: float | None) -> bool:
    """Whether values are whole multiples of the smallest of their cell, before logarithms of this base and no other."""
    share = rows.multiples[base]
    return share > 0.4 and share == max(other for other in rows.multiples.values() if not np.isnan(other))
