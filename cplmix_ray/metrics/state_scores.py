"""Scores of the continuous state against a known one, inside each type: between types it would be the type's merit."""

import numpy as np
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FEWEST = 20
"""Cells of a type below which a rank correlation says little; such types are left out."""
FOLDS = 5


def state_scores(
    state_nd: np.ndarray, truth_nm: np.ndarray | None, labels_n: np.ndarray | None, category_n: np.ndarray
) -> dict[str, float]:
    """Rank correlations with the truth inside the types, and inside the inferred categories.

    Each is a mean over types weighted by cells, and over the columns of the truth. What cannot be told, for want of
    labels or of types with enough cells whose truth varies, is left out.

    Args:
        state_nd: inferred states.
        truth_nm: known states, NaN where unknown; None leaves all out.
        labels_n: known types, "" where unknown; None leaves the scores inside types out.
        category_n: inferred categories.
    """
    if truth_nm is None:
        return {}
    scores = {}
    if labels_n is not None:
        rho, ridge, n_cells, n_groups = _mean_over_groups(state_nd, truth_nm, np.asarray(labels_n, dtype=str))
        if n_groups:
            scores = {"state_rho": rho, "state_ridge": ridge, "state_cells": n_cells, "state_types": n_groups}
    rho, ridge, _, n_groups = _mean_over_groups(state_nd, truth_nm, np.asarray(category_n).astype(str))
    if n_groups:
        scores |= {"state_rho_in_categories": rho, "state_ridge_in_categories": ridge}
    return scores


def _mean_over_groups(state_nd: np.ndarray, truth_nm: np.ndarray, group_n: np.ndarray) -> tuple:
    """rho and ridge, mean over columns of the truth; cells and groups that took part in any column."""
    by_column, cells, groups = [], set(), set()
    for truth_n in truth_nm.T:
        found = []
        for group in np.unique(group_n[group_n != ""]):
            idx_n = np.flatnonzero((group_n == group) & np.isfinite(truth_n))
            if len(idx_n) < FEWEST or np.ptp(truth_n[idx_n]) == 0:
                continue
            rho = best_coordinate(state_nd[idx_n], truth_n[idx_n])
            found.append((len(idx_n), rho, cross_validated(state_nd[idx_n], truth_n[idx_n])))
            cells.update(idx_n.tolist())
            groups.add(str(group))
        if found:
            weight, rho_g, ridge_g = np.array(found).T
            by_column.append((np.average(rho_g, weights=weight), np.average(ridge_g, weights=weight)))
    rho, ridge = np.mean(by_column, axis=0) if by_column else (np.nan, np.nan)
    return float(rho), float(ridge), float(len(cells)), float(len(groups))


def best_coordinate(state_nd: np.ndarray, truth_n: np.ndarray) -> float:
    """Largest |Spearman correlation| of a coordinate with the truth; a coordinate that does not vary has none."""
    return max((abs(_spearman(state_n, truth_n)) for state_n in state_nd.T), default=0.0)


def cross_validated(state_nd: np.ndarray, truth_n: np.ndarray) -> float:
    """Spearman correlation of the truth with its prediction by all coordinates together.

    Ridge regression from the standardised coordinates to the truth's ranks; each fifth of the cells is predicted from
    the others, so that a useless state gains nothing from its number of coordinates. A state that is turned, so that no
    single coordinate is the truth, counts in full.
    """
    if not np.ptp(state_nd, axis=0).any():
        return 0.0
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    # The mean rank is known. A fitted one is low where held-out ranks are high, which puts useless states below zero.
    model = make_pipeline(StandardScaler(), Ridge(alpha=1.0, fit_intercept=False))
    rank_n = rankdata(truth_n) - (len(truth_n) + 1) / 2
    return _spearman(cross_val_predict(model, state_nd.astype(float), rank_n, cv=folds), truth_n)


def _spearman(one_n: np.ndarray, other_n: np.ndarray) -> float:
    if np.ptp(one_n) == 0 or np.ptp(other_n) == 0:
        return 0.0
    return float(spearmanr(one_n, other_n).statistic)
