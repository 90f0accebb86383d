"""Agreement of the categories of cells with other analyses of the same cells.

Every analysis sees one half of the genes under one normalisation, and fits a mixture that starts from k-means. Arms
learn the same initial categories and repeat their errors; analyses that start from other values of the cells do not.
"""

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from cplmix_ray.clustering.student_mixture import fit_mixture
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.neighbors.covariate_effects import without_effects_in_categories
from cplmix_ray.data.neighbors.initial_clustering import views_of
from cplmix_ray.data.neighbors.mixtures import mixture_settings, renumbered, standardised

_DIVISIONS = 2
"""Random divisions of the genes into halves; with three normalisations, these are twelve analyses."""
_STARTS = 5
"""Starts of k-means, of which the one with the least variance within categories is used."""

_LARGEST_LOGARITHM = 30.0
"""Values up to which log1p is undone, for Pearson residuals."""


def agreement_with_reanalyses(
    log_ng: Block, design_nv: np.ndarray, category_n: np.ndarray, n_categories: int, seed: int
) -> np.ndarray:
    """Share of the analyses that give each cell its category, (n,).

    The categories of an analysis are matched one to one with the given ones so that most cells agree.

    Args:
        log_ng: log-expression, dense or CSR.
        design_nv: columns of the covariates, whose effects are removed.
        category_n: the categories to compare with, 0..K-1.
    """
    rng, agreement_n, n_done = np.random.default_rng([seed, 0x4EA7]), np.zeros(len(category_n)), 0
    n_axes, shrinkage = mixture_settings(n_categories)
    invertible = float(log_ng.min()) >= 0 and float(log_ng.max()) <= _LARGEST_LOGARITHM
    given_nk = np.eye(n_categories)[category_n]
    for _ in range(_DIVISIONS):
        genes = rng.permutation(log_ng.shape[1])
        for half in (np.sort(genes[0::2]), np.sort(genes[1::2])):
            if len(half) == 0:  # of a single gene
                continue
            half_ng = log_ng[:, half]
            linear_ng = np.expm1(half_ng) if invertible else None
            for view_np in views_of(half_ng, linear_ng, design_nv, seed):
                points_np = standardised(view_np[:, :n_axes])
                if design_nv.shape[1]:
                    points_np = standardised(without_effects_in_categories(points_np, design_nv, given_nk))
                other_n = _categories(points_np, n_categories, shrinkage, seed + n_done)
                agreement_n += renumbered(other_n, category_n, n_categories) == category_n
                n_done += 1
    return agreement_n / n_done


def _categories(points_np: np.ndarray, n_categories: int, shrinkage: float, seed: int) -> np.ndarray:
    n_here = min(n_categories, len(points_np))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than categories
        start_n = KMeans(n_here, n_init=_STARTS, random_state=seed).fit_predict(points_np)
    return fit_mixture(points_np, np.eye(n_categories, dtype=points_np.dtype)[start_n], shrinkage).q_nk.argmax(axis=1)
