"""Batches in the inferred categories: how mixed they are, and how well category and state predict the batch."""

import numpy as np
import pandas as pd
from scipy.stats import entropy, hypergeom
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5
FEWEST = 2 * FOLDS
"""Batches with fewer cells (of a category, for the state) are left out of the predictions."""
MOST_CELLS = 20_000
"""Largest number of cells from which the batch is predicted from category and state."""

ONE_BATCH, NOT_ALL, CHANCE = 0.95, 0.8, 1e-3


def batch_table(category_n: np.ndarray, batch_n: pd.Categorical) -> pd.DataFrame:
    """Batches of the cells of each category.

    Args:
        category_n: inferred categories; batch_n: batches, of which there are at least two.

    Returns:
        A row for each category that has cells: ``category``, ``cells``, ``cells:<batch>`` for each batch,
        ``largest_batch``, its share of the category ``largest_share`` and of all cells ``share_of_all``, ``entropy``
        (of the batches in the category, divided by that of the batches of all cells; above 1 where they are more
        even), ``p_value`` (probability that the largest batch of as many cells, drawn from all cells regardless of
        their batch, has such a share; corrected for the number of batches).
    """
    batches, code_n = list(batch_n.categories), batch_n.codes.astype(np.int64)
    categories, row_n = np.unique(category_n, return_inverse=True)
    count_kb = np.bincount(row_n * len(batches) + code_n, minlength=len(categories) * len(batches))
    count_kb = count_kb.reshape(len(categories), len(batches))
    all_b, cells_k, largest_k = count_kb.sum(axis=0), count_kb.sum(axis=1), count_kb.argmax(axis=1)
    in_largest_k = count_kb.max(axis=1)
    tail_k = hypergeom.sf(in_largest_k - 1, all_b.sum(), all_b[largest_k], cells_k)
    return pd.DataFrame(
        {
            "category": categories,
            "cells": cells_k,
            **{f"cells:{batch}": count_k for batch, count_k in zip(batches, count_kb.T, strict=True)},
            "largest_batch": np.array(batches, dtype=object)[largest_k],
            "largest_share": in_largest_k / cells_k,
            "share_of_all": all_b[largest_k] / all_b.sum(),
            "entropy": entropy(count_kb, axis=1) / entropy(all_b),
            "p_value": np.minimum(1.0, tail_k * len(batches)),
        }
    )


def of_one_batch(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`batch_table` of categories that consist almost only of one batch, the largest category first.

    More than 95 % of their cells are of a batch that has less than 80 % of all cells, which is not explained by chance;
    they have at least 10 cells and 0.5 % of all cells.
    """
    large_k = table["cells"] >= max(10, 0.005 * table["cells"].sum())
    single_k = (table["largest_share"] > ONE_BATCH) & (table["share_of_all"] < NOT_ALL)
    unlikely_k = table["p_value"] * len(table) < CHANCE
    return table[large_k & single_k & unlikely_k].sort_values("cells", ascending=False, kind="stable")


def batch_scores(probs_nk: np.ndarray, state_nd: np.ndarray, batch_n: pd.Categorical, seed: int) -> dict[str, float]:
    """How mixed the batches are in the categories, and how well category and state predict the batch.

    Args:
        probs_nk: posteriors; state_nd: states.
        batch_n: batches, of which there are at least two.
        seed: draws the cells on which predictions are fitted, and their folds.

    Returns:
        ``batch_entropy``; ``batch_auc_category`` where two batches have enough cells; ``batch_auc_state`` where they
        have in some category.
    """
    category_n = probs_nk.argmax(axis=1)
    table = batch_table(category_n, batch_n)
    scores = {"batch_entropy": float(np.average(table["entropy"], weights=table["cells"]))}
    idx_n = drawn_cells(len(category_n), seed)
    category_n, code_n, state_nd = category_n[idx_n], batch_n.codes[idx_n], state_nd[idx_n]
    of_category = _predicted(probs_nk[idx_n], code_n, seed)
    if of_category is not None:
        scores["batch_auc_category"] = of_category[0]
    groups = [np.flatnonzero(category_n == k) for k in np.unique(category_n)]
    found = [_predicted(state_nd[group_n], code_n[group_n], seed) for group_n in groups]
    of_state = [each for each in found if each is not None]
    if of_state:
        auc_k, cells_k = zip(*of_state, strict=True)
        scores["batch_auc_state"] = float(np.average(auc_k, weights=cells_k))
    return scores


def drawn_cells(n: int, seed: int) -> np.ndarray | slice:
    """Rows of at most ``MOST_CELLS`` of n cells, drawn with the seed."""
    if n <= MOST_CELLS:
        return slice(None)
    return np.sort(np.random.default_rng(seed).choice(n, MOST_CELLS, replace=False))


def _predicted(features_nf: np.ndarray, code_n: np.ndarray, seed: int) -> tuple[float, int] | None:
    """Cross-validated area under the ROC curve with which a linear model tells each batch from the others, mean over
    batches, and the number of cells; None where fewer than two batches have enough of them."""
    kept_n = np.isin(code_n, np.flatnonzero(np.bincount(code_n) >= FEWEST))
    features_nf, kept = features_nf[kept_n], code_n[kept_n]
    batches = np.unique(kept)
    if len(batches) < 2:
        return None
    is_batch_nb = kept[:, None] == batches
    model = make_pipeline(StandardScaler(), Ridge())
    aucs = []
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features_nf, kept):
        model.fit(features_nf[train], is_batch_nb[train].astype(float))
        aucs.append(roc_auc_score(is_batch_nb[test], model.predict(features_nf[test])))
    return float(np.mean(aucs)), len(kept)
