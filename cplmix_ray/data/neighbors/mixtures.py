"""Initial categories from mixtures on whose categories shares of the cells agree.

How many principal components are used, and how much categories may differ in their covariance, decides what the
components of a mixture are; the likelihood cannot choose between different components. Each arm therefore fits mixtures
to its own half of the molecules of every cell, and the setting whose categories of the whole cells are found again from
the halves is chosen. Where the halves disagree on a cell, its type is uncertain: the categories of all fits are returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.clustering.split_merge import split_and_merge
from cplmix_ray.clustering.student_mixture import Mixture, fit_mixture
from cplmix_ray.data.matrix.block import Block

Start = Literal["kmeans", "random"]


@dataclass(frozen=True)
class Setting:
    """Principal components of the cells, and cells with whose weight covariances are shrunk to the common one."""

    n_components: int
    shrinkage: float


_SETTINGS = tuple(Setting(p, shrinkage) for p in (10, 20, 35) for shrinkage in (np.inf, 500.0, 100.0))
_ALONE = Setting(20, 500.0)
"""The setting of a single arm, which has nothing to agree with."""
_COMMON_ABOVE = 50
"""Categories above which all share one covariance: they have too few cells each, and would take too long."""
_STARTS = 3
_FIT, _FIT_PER_CATEGORY = 5_000, 100
"""Cells to which mixtures are fitted: at most so many, or so many per category. Others are assigned."""


@dataclass(frozen=True)
class Categories:
    """Categories of the cells, and the space in which they were found.

    Attributes:
        points_np: principal components in which the common covariance of a category is the identity, (n, p).
        votes_nm: category 0..K-1 of each cell from the whole cell and from every share, (n, 1 + shares).
        setting: the chosen setting.
        agreement: mean adjusted Rand index of the categories of whole cells and of shares; None for a single arm.
    """

    points_np: np.ndarray
    votes_nm: np.ndarray
    setting: Setting
    agreement: float | None


def agreed_categories(views: Sequence[np.ndarray], n_categories: int, start: Start, seed: int) -> Categories:
    """Fit mixtures of K categories to the cells and to their shares, and choose the setting.

    Args:
        views: principal components of whole cells, then of every share, each (n, p); without shares the setting is
            fixed.
        start: k-means, or the nearest of K cells drawn at random.
    """
    views, n = [_standardised(view_np) for view_np in views], len(views[0])
    n_fit = max(_FIT, _FIT_PER_CATEGORY * n_categories)
    fit = np.arange(n) if n <= n_fit else np.sort(np.random.default_rng([seed, 0x317]).choice(n, n_fit, False))

    def fitted(setting: Setting) -> list[Mixture]:
        return [
            _best_mixture(view_np[fit, : setting.n_components], n_categories, setting.shrinkage, start, seed)
            for view_np in views
        ]

    best, agreement, chosen = _ALONE, -np.inf, None
    for setting in _settings_for(n_categories, min(view_np.shape[1] for view_np in views), len(views) > 1):
        mixtures = fitted(setting)
        whole_n, *shares = (mixture.q_nk.argmax(axis=1) for mixture in mixtures)
        score = float(np.mean([adjusted_rand_score(whole_n, share_n) for share_n in shares])) if shares else 0.0
        if score > agreement:
            best, agreement, chosen = setting, score, mixtures
    assert chosen is not None
    points = [view_np[:, : best.n_components] for view_np in views]
    whole_n, *shares = (mixture.posterior(own).argmax(axis=1) for mixture, own in zip(chosen, points, strict=True))
    votes_nm = np.stack([whole_n, *(_matched(share_n, whole_n, n_categories) for share_n in shares)], axis=1)
    return Categories(_whitened(points[0], chosen[0]), votes_nm, best, agreement if shares else None)


def _settings_for(n_categories: int, most_components: int, shares: bool) -> list[Setting]:
    """Settings to choose from, without those that are equal for so many categories or so few components."""
    settings = [
        Setting(min(s.n_components, most_components), np.inf if n_categories > _COMMON_ABOVE else s.shrinkage)
        for s in (_SETTINGS if shares else [_ALONE])
    ]
    return list(dict.fromkeys(settings))


def _best_mixture(points_np: np.ndarray, n_categories: int, shrinkage: float, start: Start, seed: int) -> Mixture:
    """The mixture with the largest likelihood from several starts."""
    found = []
    for run in range(_STARTS):
        mixture = fit_mixture(points_np, _start(points_np, n_categories, start, seed + 1000 * run), shrinkage)
        found.append(split_and_merge(points_np, mixture, shrinkage))
    return max(found, key=lambda mixture: mixture.log_likelihood)


def _start(points_np: np.ndarray, n_categories: int, start: Start, seed: int) -> np.ndarray:
    """One-hot categories, (n, K)."""
    n_categories_here = min(n_categories, len(points_np))
    if start == "kmeans":
        category_n = KMeans(n_categories_here, n_init=1, random_state=seed).fit_predict(points_np)
    else:
        cells = np.random.default_rng([seed, 0x57A]).choice(len(points_np), n_categories_here, replace=False)
        d2_nk = (points_np[cells] ** 2).sum(axis=1) - 2 * points_np @ points_np[cells].T
        category_n = d2_nk.argmin(axis=1)
    return np.eye(n_categories, dtype=points_np.dtype)[category_n]


def _standardised(points_np: np.ndarray) -> np.ndarray:
    """Points whose first ten components have a mean square of 1."""
    return (points_np / (points_np[:, :10].std() or 1.0)).astype(np.float32)


def _whitened(points_np: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Points in the units of the mean scale matrix of the categories."""
    scale_kpp = np.linalg.inv(mixture.whiten_kpp)
    weight_k = np.exp(mixture.log_weight_k) if len(scale_kpp) > 1 else np.ones(1)
    common_pp = np.einsum("k,kpq,krq->pr", weight_k, scale_kpp, scale_kpp)
    return np.ascontiguousarray(points_np @ np.linalg.inv(np.linalg.cholesky(common_pp)).T, dtype=np.float32)


def _matched(category_n: np.ndarray, reference_n: np.ndarray, n_categories: int) -> np.ndarray:
    """Categories renumbered so that most cells have that of the reference."""
    joint_kl = np.zeros((n_categories, n_categories))
    np.add.at(joint_kl, (category_n, reference_n), 1)
    rows, columns = linear_sum_assignment(-joint_kl)
    renumbered = np.empty(n_categories, np.int64)
    renumbered[rows] = columns
    return renumbered[category_n]
