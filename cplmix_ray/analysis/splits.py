"""Test of each pair of neighbouring categories: whether there is a gap between them, or one type was divided in two.

The test is that of :mod:`cplmix_ray.clustering.separation`, by which ``--n-categories auto`` finds the number of types.
It asks nothing of the method that found the categories, so that the clusters of any tool can be tested.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from cplmix_ray.clustering.separation import FEWEST, FOLDS, separation
from cplmix_ray.config import load_preset
from cplmix_ray.data.covariates import design_matrix, encode_covariates, fit_covariates, level_names
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.neighbors.covariate_effects import without_effects_in_categories
from cplmix_ray.data.neighbors.initial_clustering import scaled_components
from cplmix_ray.data.neighbors.nearest import nearest_of_few
from cplmix_ray.data.neighbors.principal_components import require_differences
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import Preparation, check_finite, prepare
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.utils.errors import InputError

ALPHA = 0.05
"""Adjusted p-value below which two categories are separate."""
SEPARATE, NOT_SEPARATED = "separate", "not separated"
_NEIGHBOURS = 3
"""Nearest categories with which each one is compared."""
_SHARE_IN_REGION = 0.1
"""Share of either category that must be near both for only such cells to be tested."""
_OF_CATEGORY, _TOGETHER = 2_000, 40_000
"""Cells that are compared: at most so many of a category, and about so many of all categories together."""


@dataclass(frozen=True)
class Grouped:
    """Cells in categories, as far as they are compared.

    Attributes:
        log_matrix: log-expression of the genes that are compared, of all cells.
        category: category of each cell; missing where it has none.
        design_nv: columns of the covariates of all cells, whose effects are removed.
        batch_n: batch of each cell, within which categories are compared; None without batches.
    """

    log_matrix: Matrix
    category: pd.Categorical
    design_nv: np.ndarray
    batch_n: np.ndarray | None


def cells_of_run(model: TrainedModel, source: Source, key: str | None = None) -> Grouped:
    """Cells with the categories of a trained model, or those of a column of obs, on the genes and covariates of the
    model.

    Raises:
        InputError: the cells do not fit the model, or there is no such column.
    """
    prepared = model.prepare(source)
    preparation = prepared.preparation
    if preparation.kind == "images":
        raise InputError(f"{source.name} holds images, and splits are tested in cells; give the run of cells.")
    if key is None:
        probs_nk = model.infer(prepared, ["probs_nk"])["probs_nk"]
        names = [str(k) for k in range(probs_nk.shape[1])]
        category = pd.Categorical.from_codes(probs_nk.argmax(axis=1), categories=names)
    else:
        category = _column(source, key)
    log_matrix = prepared.matrix
    if preparation.kind == "counts":
        logged = Preparation("log", tuple(source.var_names), target_sum=preparation.library)
        at = columns_of(source.var_names, preparation.var_names, source.name, source.adata)
        log_matrix = prepare(source.matrix, logged).choose(at)
    covariates, batch_key = preparation.covariates, model.config.input.batch_key
    design_nv, batch_n = np.zeros((source.n_cells, 0), np.float32), None
    if covariates:
        design_nv = design_matrix(covariates, prepared.covariates, slice(None))
        batch_n = prepared.covariates.get(batch_key) if batch_key is not None else None
    return Grouped(log_matrix, category, design_nv, batch_n)


def cells_of_column(source: Source, key: str, batch_key: str | None = None) -> tuple[Grouped, tuple[str, ...]]:
    """Cells with the categories of a column of obs, prepared as for training by default, and notes for the user.

    Raises:
        InputError: there is no such column, or the values are none of cells.
    """
    category = _column(source, key)
    if source.image_shape is not None:
        raise InputError(f"{source.name} holds images, and splits are tested in cells; give a file of cells.")
    check_finite(source.matrix, source)
    fitted = fit_preparation(source, load_preset("cells").input)
    log_matrix = fitted.log_matrix.choose(source.var_names.get_indexer(list(fitted.preparation.var_names)))
    every, obs = np.arange(source.n_cells), source.adata.obs
    covariates, notes = fit_covariates(obs, batch_key, (), every, source.name)
    design_nv, batch_n = np.zeros((source.n_cells, 0), np.float32), None
    if covariates:
        values, _ = encode_covariates(obs, covariates, source.name)
        design_nv, batch_n = design_matrix(covariates, values, slice(None)), values[covariates[0].name]
    return Grouped(log_matrix, category, design_nv, batch_n), (*fitted.notes, *notes)


def split_table(cells: Grouped, name: str, seed: int) -> pd.DataFrame:
    """Test whether neighbouring categories are separate.

    Args:
        name: of the data, for messages.

    Returns:
        A row for each pair of neighbouring categories, the largest p-value first. Columns: category_1, category_2;
        n_1, n_2 (their cells); tested_1, tested_2 (those whose projections were tested); deviations (the distance
        between them in standard deviations within them, on an axis found in other cells); p_value (of the hypothesis
        that they are one type); p_adjusted (Holm's method over all pairs); verdict.

    Raises:
        InputError: there are no two categories with enough cells, or the cells do not differ.
    """
    rng, codes_n = np.random.default_rng([seed, 0x5B1]), cells.category.codes
    size_k = np.bincount(codes_n[codes_n >= 0], minlength=len(cells.category.categories))
    tested = np.flatnonzero(size_k >= FEWEST)
    if len(tested) < 2:
        raise InputError(
            f"{name} has {len(tested)} categories with {FEWEST} cells or more, and two are required to be compared."
        )
    most = min(_OF_CATEGORY, _TOGETHER // len(tested) + FEWEST)
    rows = np.sort(np.concatenate([rng.permutation(np.flatnonzero(codes_n == k))[:most] for k in tested]))
    category_m = np.searchsorted(tested, codes_n[rows])
    batch_m = None if cells.batch_n is None else cells.batch_n[rows]
    log_mg, design_mv = cells.log_matrix.rows(rows), cells.design_nv[rows]
    require_differences(log_mg, name)
    points_mp = scaled_components(log_mg, design_mv, seed)
    if design_mv.shape[1]:
        points_mp = without_effects_in_categories(points_mp, design_mv, np.eye(len(tested))[category_m])
    white_mp = _whitened(points_mp, category_m, len(tested))
    mean_kp, fold_m, found = _means(white_mp, category_m, len(tested)), rng.integers(FOLDS, size=len(rows)), []
    d2_mk = np.square(white_mp).sum(axis=1)[:, None] + np.square(mean_kp).sum(axis=1) - 2 * white_mp @ mean_kp.T
    for one, other in _neighbouring(mean_kp):
        pair_m = np.flatnonzero((category_m == one) | (category_m == other))
        upper_m, near_m = category_m[pair_m] == other, _near_both(category_m[pair_m], d2_mk[pair_m], one, other)
        of_batch_m = None if batch_m is None else batch_m[pair_m]
        apart = separation(points_mp[pair_m].astype(np.float64), upper_m, fold_m[pair_m], of_batch_m, near_m)
        found.append(
            {
                "category_1": cells.category.categories[tested[one]],
                "category_2": cells.category.categories[tested[other]],
                "n_1": size_k[tested[one]],
                "n_2": size_k[tested[other]],
                "tested_1": int((~upper_m & near_m).sum()),
                "tested_2": int((upper_m & near_m).sum()),
                "deviations": apart.deviations,
                "p_value": apart.p_value,
            }
        )
    table = pd.DataFrame(found)
    table["p_adjusted"] = multipletests(table["p_value"], method="holm")[1]
    table["verdict"] = np.where(table["p_adjusted"] < ALPHA, SEPARATE, NOT_SEPARATED)
    return table.sort_values(["p_value", "deviations"], ascending=[False, True], ignore_index=True)


def _neighbouring(mean_kp: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of each category and those nearest to it, without pairs that have another category between them.

    Two ends of one type whose middle is a third category have a gap between them. There is one between two categories
    if it lies within the sphere through both means (Gabriel graph).
    """
    near_kj = nearest_of_few(mean_kp, _NEIGHBOURS)
    pairs = sorted({(min(k, int(j)), max(k, int(j))) for k, near_j in enumerate(near_kj) for j in near_j})
    d2_kk = np.square(mean_kp[:, None] - mean_kp).sum(axis=2)
    through_kp = [np.delete(d2_kk[one] + d2_kk[other], [one, other]) for one, other in pairs]
    return [pair for pair, d2_k in zip(pairs, through_kp, strict=True) if not (d2_k < d2_kk[pair]).any()]


def _near_both(category_m: np.ndarray, d2_mk: np.ndarray, one: int, other: int) -> np.ndarray:
    """Whether no third category is nearer to a cell than either of two, (m,).

    This region is convex: the cells in it of one type with a log-concave density, of which other categories may have
    cut pieces off, have one mode along any axis. Categories that are far apart have few such cells; then any cell is.
    """
    third_m = np.delete(d2_mk, [one, other], axis=1).min(axis=1, initial=np.inf)
    near_m = np.maximum(d2_mk[:, one], d2_mk[:, other]) <= third_m
    shares = [near_m[category_m == k].mean() for k in (one, other)]
    return near_m if min(shares) >= _SHARE_IN_REGION else np.ones(len(near_m), bool)


def _whitened(points_mp: np.ndarray, category_m: np.ndarray, n_categories: int) -> np.ndarray:
    """Points in units of the covariance within categories."""
    mean_kp = _means(points_mp, category_m, n_categories)
    covariance_pp = np.atleast_2d(np.cov((points_mp - mean_kp[category_m]).T))
    ridge = 1e-3 * np.trace(covariance_pp) / len(covariance_pp) + 1e-12
    return points_mp @ np.linalg.inv(np.linalg.cholesky(covariance_pp + ridge * np.eye(len(covariance_pp)))).T


def _means(points_mp: np.ndarray, category_m: np.ndarray, n_categories: int) -> np.ndarray:
    return np.stack([points_mp[category_m == k].mean(axis=0) for k in range(n_categories)])


def _column(source: Source, key: str) -> pd.Categorical:
    obs = source.adata.obs
    if key not in obs:
        raise InputError(f"{source.name} has no column '{key}' in obs; it has {', '.join(map(str, obs.columns[:20]))}.")
    names = pd.Series(np.asarray(level_names(obs[key]), dtype=object))
    return pd.Categorical(names.mask(obs[key].isna().to_numpy()))
