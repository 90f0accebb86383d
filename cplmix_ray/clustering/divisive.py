"""Number of types by division: categories are divided as long as a test finds two types in one of them.

As in dip-means (Kalogeratos and Likas 2012), the number of categories grows from one. A division is a cut of the cells
of one category in two; of several cuts, the one with the smallest p-value is made if that is significant
(:mod:`cplmix_ray.clustering.separation`). After each round a mixture is fitted to the categories, so that cells at the
border of two categories go where they belong before these are divided further.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans

from cplmix_ray.clustering.separation import FEWEST, FOLDS, discriminant_axis, separation_p_value
from cplmix_ray.clustering.student_mixture import fit_mixture

ALPHA = 1e-3
"""A category is divided if the smallest p-value of its cuts, times the number of cuts, is below this."""
_COMPARED = 2_000
"""Cells of a category on which cuts are sought and tested; its other cells follow."""
_LOCAL_AXES, _PARTS = (5, 20), (2, 3, 5, 8)
"""Principal components of a category, and numbers of k-means clusters in it, from which cuts are made."""
_SAME = 0.97
"""Cuts that agree in this share of the cells are tested once."""
_REFINED, _ITERATIONS = 4, 20
_ROUNDS, _MIXTURE_ITERATIONS = 20, 40

Corrected = Callable[[np.ndarray], np.ndarray]
"""Points (n, p) from which the effects of batches within given categories (n, K) are removed."""


@dataclass(frozen=True)
class Division:
    """Categories found by division.

    Attributes:
        category_n: category 0..K-1 of each cell.
        n_categories: K after each round of divisions, the last being that of ``category_n``.
    """

    category_n: np.ndarray
    n_categories: tuple[int, ...]


def divide(
    points_np: np.ndarray,
    shrinkage: Callable[[int], float],
    seed: int,
    batch_n: np.ndarray | None = None,
    correct: Corrected | None = None,
) -> Division:
    """Divide the cells into types.

    Args:
        points_np: points whose overall standard deviation is 1, (n, p).
        shrinkage: that of :func:`cplmix_ray.clustering.student_mixture.fit_mixture` for a number of categories.
        batch_n: batch of each cell; types are then told apart within batches.
        correct: removes what differs between batches within the categories found so far, after every round.
    """
    rng = np.random.default_rng([seed, 0xD17])
    fold_n = rng.integers(FOLDS, size=len(points_np))
    category_n, corrected_np, counts, ended = np.zeros(len(points_np), np.int64), points_np, [1], set()
    for _ in range(_ROUNDS):
        divided_n, n_here = category_n.copy(), int(category_n.max()) + 1
        for k in range(n_here):
            cells_m = np.flatnonzero(category_n == k)
            if cells_m.tobytes() in ended:
                continue
            upper_m = _significant_cut(corrected_np[cells_m], fold_n[cells_m], _of(batch_n, cells_m), rng)
            if upper_m is None:
                ended.add(cells_m.tobytes())
            else:
                divided_n[cells_m[upper_m]] = divided_n.max() + 1
        if divided_n.max() < n_here:
            break
        one_hot_nk = np.eye(int(divided_n.max()) + 1, dtype=corrected_np.dtype)[divided_n]
        mixture = fit_mixture(corrected_np, one_hot_nk, shrinkage(one_hot_nk.shape[1]), _MIXTURE_ITERATIONS)
        category_n = np.unique(mixture.q_nk.argmax(axis=1), return_inverse=True)[1]
        counts.append(int(category_n.max()) + 1)
        if correct is not None:
            corrected_np = correct(mixture.q_nk)
    return Division(category_n, tuple(counts))


def _of(batch_n: np.ndarray | None, cells_m: np.ndarray) -> np.ndarray | None:
    return None if batch_n is None else batch_n[cells_m]


def _significant_cut(
    points_np: np.ndarray, fold_n: np.ndarray, batch_n: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray | None:
    """The most significant division of a category in two, as a mask of its cells (n,); None if none is significant."""
    compared = rng.permutation(len(points_np))[:_COMPARED]
    if len(compared) < 2 * FEWEST:
        return None
    here_np = points_np[compared].astype(np.float64)
    cuts = _cuts(here_np, rng)
    p_values = [separation_p_value(here_np, cut_n, fold_n[compared], _of(batch_n, compared)) for cut_n in cuts]
    if not p_values or min(p_values) * len(p_values) >= ALPHA:
        return None
    upper_m = cuts[int(np.argmin(p_values))]
    axis_p = discriminant_axis(here_np[~upper_m], here_np[upper_m])
    between = np.median(here_np[upper_m] @ axis_p) + np.median(here_np[~upper_m] @ axis_p)
    upper_n = points_np @ axis_p > between / 2
    upper_n[compared] = upper_m
    return upper_n


def _cuts(points_np: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Different cuts of the cells in two: k-means clusters against the others, moved to where discriminant axes have
    them."""
    centred_np = points_np - points_np.mean(axis=0)
    axes_pp = np.linalg.eigh(centred_np.T @ centred_np)[1][:, ::-1]
    found: list[np.ndarray] = []
    for n_axes in _LOCAL_AXES:
        local_np = centred_np @ axes_pp[:, :n_axes]
        for parts in _PARTS:
            if len(points_np) < 10 * parts:
                continue
            seed = int(rng.integers(2**31))
            part_n = KMeans(parts, n_init=1, random_state=seed).fit_predict(local_np)
            for part in range(parts if parts > 2 else 1):
                cut_n = _refined(points_np, part_n == part)
                agree = (abs(2 * (cut_n == other_n).mean() - 1) for other_n in found)
                if min(cut_n.sum(), (~cut_n).sum()) >= FEWEST and all(share < _SAME for share in agree):
                    found.append(cut_n)
    return found


def _refined(points_np: np.ndarray, upper_n: np.ndarray) -> np.ndarray:
    """A cut moved to the one between two Gaussians along the discriminant axis, again and again."""
    for _ in range(_REFINED):
        if min(upper_n.sum(), (~upper_n).sum()) < FEWEST:
            break
        along_n = points_np @ discriminant_axis(points_np[~upper_n], points_np[upper_n])
        moved_n = _upper_gaussian(along_n, upper_n)
        if np.array_equal(moved_n, upper_n):
            break
        upper_n = moved_n
    return upper_n


def _upper_gaussian(along_n: np.ndarray, upper_n: np.ndarray) -> np.ndarray:
    """Whether a cell more likely belongs to the upper of two Gaussians, by expectation maximisation from a cut."""
    q_n2 = np.stack([~upper_n, upper_n], axis=1).astype(float)
    for _ in range(_ITERATIONS):
        cells_2 = q_n2.sum(axis=0) + 1e-9
        mean_2 = (q_n2 * along_n[:, None]).sum(axis=0) / cells_2
        variance_2 = (q_n2 * (along_n[:, None] - mean_2) ** 2).sum(axis=0) / cells_2 + 1e-6 * along_n.var() + 1e-12
        log_n2 = np.log(cells_2) - 0.5 * (np.log(variance_2) + (along_n[:, None] - mean_2) ** 2 / variance_2)
        q_n2 = np.exp(log_n2 - log_n2.max(axis=1, keepdims=True))
        q_n2 /= q_n2.sum(axis=1, keepdims=True)
    return q_n2[:, 1] > q_n2[:, 0]
