"""Scores of the inferred continuous state against a known one.

States are compared within types, as between types a difference of state can follow from the type alone.
"""

import numpy as np
from scipy.stats import rankdata, spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FEWEST = 20
"""Types with fewer cells are left out, as their rank correlations are mostly noise."""
FOLDS = 5


def state_scores(
    state_nd: np.ndarray, truth_nm: np.ndarray | None, labels_n: np.ndarray | None, category_n: np.ndarray
) -> dict[str, float]:
    """Rank correlations with the known state within the types, and within the inferred categories.

    Each is a mean over types, weighted by their cells, and over the columns of the known state.

    Args:
        state_nd: inferred states.
        truth_nm: known states, NaN where unknown; None gives no scores.
        labels_n: known types, "" where unknown; None omits the scores within types.
        category_n: inferred categories.

    Returns:
        ``state_rho``, ``state_ridge``, ``state_cells`` and ``state_types``, where some type has enough cells whose
        known state varies; ``state_rho_in_categories`` and ``state_ridge_in_categories``, where some category has.
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
    """rho and ridge, means over the columns of the known state; numbers of cells and groups used in any column."""
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
    """Largest |Spearman correlation| of a coordinate with the known state; 0 for one that does not vary."""
    return max((abs(_spearman(state_n, truth_n)) for state_n in state_nd.T), default=0.0)


def cross_validated(state_nd: np.ndarray, truth_n: np.ndarray) -> float:
    """Spearman correlation of the known state with its cross-validated prediction from all coordinates.

    Ridge regression (alpha 1) of its ranks on the standardised coordinates; each fifth of the cells is predicted from
    the others, so additional useless coordinates do not raise the score. A rotation of the state does not change it
    much, although no single coordinate may be the known state.
    """
    if not np.ptp(state_nd, axis=0).any():
        return 0.0
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    # The mean rank is known. A fitted intercept is low where held-out ranks are high, which biases the score below 0.
    model = make_pipeline(StandardScaler(), Ridge(alpha=1.0, fit_intercept=False))
    rank_n = rankdata(truth_n) - (len(truth_n) + 1) / 2
    return _spearman(cross_val_predict(model, state_nd.astype(float), rank_n, cv=folds), truth_n)


def _spearman(one_n: np.ndarray, other_n: np.ndarray) -> float:
    if np.ptp(one_n) == 0 or np.ptp(other_n) == 0:
        return 0.0
    return float(spearmanr(one_n, other_n).statistic)
