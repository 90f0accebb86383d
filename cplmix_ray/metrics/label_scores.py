"""Scores against known types."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


def hungarian_accuracy(labels_n: np.ndarray, assigned_n: np.ndarray) -> float:
    """Share of cells that are right under the best one-to-one matching of categories with types.

    The matching maximises the matched cells (Kuhn 1955); categories or types left over count as wrong.
    """
    if len(labels_n) == 0:
        return float("nan")
    table = contingency_matrix(labels_n, assigned_n)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def label_scores(labels_n: np.ndarray, assigned_n: np.ndarray) -> dict[str, float]:
    """ACC, ARI (Hubert and Arabie 1985) and NMI (arithmetic mean) over the cells that have a label ("" has none)."""
    known_n = np.asarray(labels_n) != ""
    labels_n, assigned_n = np.asarray(labels_n)[known_n], np.asarray(assigned_n)[known_n]
    if len(labels_n) == 0:
        return {}
    return {
        "acc": hungarian_accuracy(labels_n, assigned_n),
        "ari": float(adjusted_rand_score(labels_n, assigned_n)),
        "nmi": float(normalized_mutual_info_score(labels_n, assigned_n)),
    }
