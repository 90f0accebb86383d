"""Test of whether two groups of cells are two types: whether there is a gap between them on a held-out axis.

Any cells can be divided in two, and the halves then differ. Two types differ in another way: between them there are few
cells. The cells are projected on the axis that best discriminates between both groups (Fisher's linear discriminant),
and the dip test (Hartigan and Hartigan 1985) asks whether the projections have one mode. A continuous state has one
mode whatever its distribution within a type, so that the ends of a state are not taken for types. The axis is found in
other cells than those that are projected on it: an axis that is chosen for its gap shows one in any cells.
"""

from dataclasses import dataclass

import numpy as np
from diptest import diptest
from scipy.stats import combine_pvalues

FOLDS = 5
"""Parts of the cells; the cells of a part are projected on the axis of the other parts."""
FEWEST = 5
"""Cells that each of two groups must have."""
_SHRINKAGE = 0.1
"""Weight of the identity matrix in the covariance from which the axis is computed."""
_NEAR = 2
"""Cells on each side of the border that are tested, in multiples of the size of the smaller group."""
_LEAST_P = 1e-16
"""p-values below it are only known to be smaller."""


def discriminant_axis(lower_np: np.ndarray, upper_np: np.ndarray) -> np.ndarray:
    """Axis (p,) of Fisher's linear discriminant, along which ``upper_np`` is above ``lower_np``."""
    apart_p = upper_np.mean(axis=0) - lower_np.mean(axis=0)
    scatter_pp = sum((each - each.mean(axis=0)).T @ (each - each.mean(axis=0)) for each in (lower_np, upper_np))
    within_pp = scatter_pp / max(len(lower_np) + len(upper_np) - 2, 1)
    identity_pp = np.eye(len(apart_p)) * (np.trace(within_pp) / len(apart_p) + 1e-12)
    return np.linalg.solve((1 - _SHRINKAGE) * within_pp + _SHRINKAGE * identity_pp, apart_p)


@dataclass(frozen=True)
class Separation:
    """How far apart two groups of cells are.

    Attributes:
        p_value: of the hypothesis that they are one type; 1 where a group has fewer than FEWEST cells.
        deviations: difference between their means on the held-out axis, in standard deviations within the groups; NaN
            where a group has too few cells to find an axis.
    """

    p_value: float
    deviations: float


def separation_p_value(
    points_np: np.ndarray, upper_n: np.ndarray, fold_n: np.ndarray, batch_n: np.ndarray | None = None
) -> float:
    """The p-value of :func:`separation`."""
    return separation(points_np, upper_n, fold_n, batch_n).p_value


def separation(
    points_np: np.ndarray,
    upper_n: np.ndarray,
    fold_n: np.ndarray,
    batch_n: np.ndarray | None = None,
    tested_n: np.ndarray | None = None,
) -> Separation:
    """Test the hypothesis that two groups of cells are one type.

    Args:
        points_np: coordinates of the cells of both groups, (n, p).
        upper_n: whether a cell belongs to the second group.
        fold_n: 0..FOLDS-1, the part of each cell, at random.
        batch_n: batch of each cell. The test is then made within each batch that has enough cells of both groups, and
            its p-values are combined (Fisher's method): groups that no batch has together cannot be told from batches.
        tested_n: whether a cell is among those of which the projections are tested; None: all are.
    """
    if min(upper_n.sum(), (~upper_n).sum()) < FEWEST:
        return Separation(1.0, np.nan)
    along_n = _held_out_projection(points_np, upper_n, fold_n)
    if along_n is None:
        return Separation(1.0, np.nan)
    deviations = float(along_n[upper_n].mean() - along_n[~upper_n].mean())
    tested_m = np.arange(len(upper_n)) if tested_n is None else np.flatnonzero(tested_n)
    if batch_n is None:
        return Separation(_dip_p_value(along_n[tested_m], upper_n[tested_m]), deviations)
    cells_b = [tested_m[batch_n[tested_m] == batch] for batch in np.unique(batch_n)]
    enough = [cells_m for cells_m in cells_b if min(upper_n[cells_m].sum(), (~upper_n[cells_m]).sum()) >= FEWEST]
    p_values = [_dip_p_value(along_n[cells_m], upper_n[cells_m]) for cells_m in enough]
    p_value = float(combine_pvalues(np.maximum(p_values, _LEAST_P)).pvalue) if p_values else 1.0
    return Separation(p_value, deviations)


def _held_out_projection(points_np: np.ndarray, upper_n: np.ndarray, fold_n: np.ndarray) -> np.ndarray | None:
    """Projection of each cell on the axis of the other parts, in units of the spread within both groups of those; 0 is
    halfway between them. None if the other parts lack a group."""
    along_n = np.empty(len(points_np))
    for fold in range(FOLDS):
        lower_mp, upper_mp = points_np[(fold_n != fold) & ~upper_n], points_np[(fold_n != fold) & upper_n]
        if min(len(lower_mp), len(upper_mp)) < 2:
            return None
        axis_p = discriminant_axis(lower_mp, upper_mp)
        lower_m, upper_m = lower_mp @ axis_p, upper_mp @ axis_p
        spread = np.sqrt((lower_m.var() * len(lower_m) + upper_m.var() * len(upper_m)) / (len(lower_m) + len(upper_m)))
        here_n = fold_n == fold
        along_n[here_n] = (points_np[here_n] @ axis_p - (lower_m.mean() + upper_m.mean()) / 2) / (spread + 1e-12)
    return along_n


def _dip_p_value(along_n: np.ndarray, upper_n: np.ndarray) -> float:
    """p-value of the dip test for the cells nearest to the border at 0.

    Only these are tested, as a small group beside a large one would hardly change the distribution of all cells. The
    test stays valid: a density with one mode has one mode in every interval.
    """
    room = _NEAR * int(min(upper_n.sum(), (~upper_n).sum()))
    below_m, above_m = np.sort(-along_n[along_n < 0])[:room], np.sort(along_n[along_n >= 0])[:room]
    inside_m = np.concatenate([-below_m, above_m])
    return float(diptest(inside_m)[1]) if len(inside_m) >= 2 * FEWEST else 1.0
