"""Initial categories from mixtures that are fitted to the cells and, for each arm, to its share of every cell.

How many principal components are used and how much covariances may differ depends on K alone: in two halves of the
molecules other settings often agreed more, because coarser categories are found again more easily, and those were not
closer to known types. Where the shares disagree on a cell, its type is uncertain; each arm learns its own category.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from cplmix_ray.clustering.divisive import divide
from cplmix_ray.clustering.split_merge import split_and_merge
from cplmix_ray.clustering.student_mixture import Mixture, fit_mixture
from cplmix_ray.data.neighbors.covariate_effects import without_effects_in_categories

Start = Literal["kmeans", "random"]

_FEWEST_AXES, _MOST_AXES = 10, 50
"""Bounds of the number of principal components, which is K: the means of K categories span at most K - 1 dimensions."""
_SHRINKAGE = 100.0
"""Cells with whose weight the covariance of a category is shrunk to the common one."""
_COMMON_ABOVE = 20
"""Categories above which all share one covariance: most have too few cells for one of their own."""
_STARTS, _CATEGORIES_FITTED = 4, 40
"""Fits from different starts, of which the one with the largest likelihood is used: at least so many, and so many that
they fit this number of categories together; with few categories there are few moves by which a bad start is left."""
_FIT, _FIT_PER_CATEGORY = 5_000, 100
"""Cells to which mixtures are fitted: so many, or so many per category if that is more. Others are assigned."""
_COUNTED = 10_000
"""Cells in which types are counted."""


@dataclass(frozen=True)
class Categories:
    """Categories of the cells, and the space in which they were found.

    Attributes:
        points_np: principal components in which the mean covariance of a category is the identity, (n, p).
        votes_nm: category 0..K-1 of each cell from the whole cell and from every share, (n, 1 + shares).
        n_categories: K.
    """

    points_np: np.ndarray
    votes_nm: np.ndarray
    n_categories: int


def mixture_categories(
    views: Sequence[np.ndarray],
    n_categories: int | None,
    start: Start,
    seed: int,
    design_nv: np.ndarray | None = None,
    batch_n: np.ndarray | None = None,
) -> Categories:
    """Fit mixtures of K categories to the cells and to their shares.

    Args:
        views: principal components of whole cells, then of every share, each (n, p).
        n_categories: K; None finds it in whole cells (:mod:`cplmix_ray.clustering.divisive`).
        start: k-means, or the nearest of K cells drawn at random; the types that were found are a start too.
        design_nv: columns of the covariates of the cells, whose effects within the categories of whole cells are
            removed from all views; None without covariates.
        batch_n: batch of each cell, within which types are told apart where K is found; None without batches.
    """
    n = len(views[0])
    design_nv = np.zeros((n, 0)) if design_nv is None else design_nv
    found_fit, found_n = np.arange(0), np.arange(0)
    if n_categories is None:
        found_fit, found_n = _types(views[0], design_nv, batch_n, seed)
        n_categories = int(found_n.max()) + 1
    n_components, shrinkage = mixture_settings(n_categories)
    n_fit = max(_FIT, _FIT_PER_CATEGORY * n_categories)
    fit = np.arange(n) if n <= n_fit else np.sort(np.random.default_rng([seed, 0x317]).choice(n, n_fit, False))
    correct = design_nv.shape[1] > 0
    whole_nk, whole_np, votes = np.zeros((n, n_categories)), views[0], []
    for number, view_np in enumerate(views):
        points_np = standardised(view_np[:, :n_components])
        if number and correct:
            points_np = standardised(without_effects_in_categories(points_np, design_nv, whole_nk))
        n_starts = max(_STARTS, _CATEGORIES_FITTED // n_categories) // (2 if number else 1)
        seeds = [int(s) for s in np.random.SeedSequence([seed, number]).generate_state(n_starts)]
        starts = [_start(points_np[fit], n_categories, start, seed_of_run) for seed_of_run in seeds]
        if len(found_n):
            one_hot_mk = np.eye(n_categories, dtype=points_np.dtype)[found_n]
            starts.append(fit_mixture(points_np[found_fit], one_hot_mk, shrinkage).posterior(points_np[fit]))
        mixture = _best_mixture(points_np[fit], starts, shrinkage)
        if not number and correct:
            whole_nk = mixture.posterior(points_np)
            points_np = standardised(without_effects_in_categories(points_np, design_nv, whole_nk))
            mixture = _best_mixture(points_np[fit], [whole_nk[fit]], shrinkage)
        posterior_nk = mixture.posterior(points_np)
        votes.append(posterior_nk.argmax(axis=1))
        if not number:
            whole_nk, whole_np = posterior_nk, _whitened(points_np, mixture)
    whole_n, *shares = votes
    votes_nm = np.stack([whole_n, *(renumbered(share_n, whole_n, n_categories) for share_n in shares)], axis=1)
    return Categories(whole_np, votes_nm, n_categories)


def _shrinkage(n_categories: int) -> float:
    return np.inf if n_categories > _COMMON_ABOVE else _SHRINKAGE


def _types(
    view_np: np.ndarray, design_nv: np.ndarray, batch_n: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Types that tests tell apart: rows of the cells in which they were counted, and the type of each of these."""
    n, rng = len(view_np), np.random.default_rng([seed, 0xC7])
    rows = np.arange(n) if n <= _COUNTED else np.sort(rng.choice(n, _COUNTED, replace=False))
    points_mp, design_mv = standardised(view_np[rows]), design_nv[rows]

    def correct(q_mk: np.ndarray) -> np.ndarray:
        return standardised(without_effects_in_categories(points_mp, design_mv, q_mk))

    division = divide(
        points_mp,
        _shrinkage,
        seed,
        None if batch_n is None else batch_n[rows],
        correct if design_nv.shape[1] else None,
    )
    return rows, division.category_n


def mixture_settings(n_categories: int) -> tuple[int, float]:
    """Number of principal components, and the cells with whose weight covariances are shrunk to the common one."""
    return min(max(_FEWEST_AXES, n_categories), _MOST_AXES), _shrinkage(n_categories)


def _best_mixture(points_np: np.ndarray, starts: Sequence[np.ndarray], shrinkage: float) -> Mixture:
    """The mixture with the largest likelihood."""
    fits = (split_and_merge(points_np, fit_mixture(points_np, start_nk, shrinkage), shrinkage) for start_nk in starts)
    return max(fits, key=lambda mixture: mixture.log_likelihood)


def _start(points_np: np.ndarray, n_categories: int, start: Start, seed: int) -> np.ndarray:
    """One-hot categories, (n, K)."""
    n_here = min(n_categories, len(points_np))
    if start == "kmeans":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than categories
            category_n = KMeans(n_here, n_init=1, random_state=seed).fit_predict(points_np)
    else:
        cells = np.random.default_rng(seed).choice(len(points_np), n_here, replace=False)
        d2_nk = (points_np[cells] ** 2).sum(axis=1) - 2 * points_np @ points_np[cells].T
        category_n = d2_nk.argmin(axis=1)
    return np.eye(n_categories, dtype=points_np.dtype)[category_n]


def standardised(points_np: np.ndarray) -> np.ndarray:
    """Points whose overall standard deviation is 1."""
    return (points_np / (points_np.std() or 1.0)).astype(np.float32)


def _whitened(points_np: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Points in the units of the mean scale matrix of the categories."""
    scale_kpp = np.linalg.inv(mixture.whiten_kpp)
    weight_k = np.exp(mixture.log_weight_k) if len(scale_kpp) > 1 else np.ones(1)
    common_pp = np.einsum("k,kpq,krq->pr", weight_k, scale_kpp, scale_kpp)
    return np.ascontiguousarray(points_np @ np.linalg.inv(np.linalg.cholesky(common_pp)).T, dtype=np.float32)


def renumbered(category_n: np.ndarray, reference_n: np.ndarray, n_categories: int) -> np.ndarray:
    """Categories renumbered so that most cells have that of the reference."""
    joint_kl = np.zeros((n_categories, n_categories))
    np.add.at(joint_kl, (category_n, reference_n), 1)
    number_k = np.empty(n_categories, np.int64)
    rows, columns = linear_sum_assignment(-joint_kl)
    number_k[rows] = columns
    return number_k[category_n]
