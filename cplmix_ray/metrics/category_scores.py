"""Scores of inferred categories: against known types, between arms, and of the posterior alone."""

from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix


def hungarian_accuracy(labels_n: np.ndarray, assigned_n: np.ndarray) -> float:
    """Share of cells that are correct under the best one-to-one matching of categories with types.

    ACC = max_m 1/n sum_i [m(c_i) = y_i] over one-to-one matchings m (Kuhn 1955). Cells of categories or types without a
    partner count as wrong.

    Args:
        labels_n: known types; assigned_n: categories.

    Returns:
        A number in (0, 1]; NaN without cells.
    """
    return float(correct_cells(labels_n, assigned_n).mean()) if len(labels_n) else float("nan")


def correct_cells(labels_n: np.ndarray, assigned_n: np.ndarray) -> np.ndarray:
    """Mark the cells that :func:`hungarian_accuracy` counts as correct.

    Args:
        labels_n: known types; assigned_n: categories.

    Returns:
        (n,) booleans; False for all cells of a category or type without a partner.
    """
    if len(labels_n) == 0:
        return np.zeros(0, bool)
    rows, columns = linear_sum_assignment(contingency_matrix(labels_n, assigned_n), maximize=True)
    type_n, category_n = (np.unique(each, return_inverse=True)[1] for each in (labels_n, assigned_n))
    type_of = np.full(category_n.max() + 1, -1)
    type_of[columns] = rows
    return type_of[category_n] == type_n


def label_scores(labels_n: np.ndarray, assigned_n: np.ndarray) -> dict[str, float]:
    """ACC, ARI (Hubert and Arabie 1985) and NMI (arithmetic mean of the entropies) over the cells with a label.

    Args:
        labels_n: known types, "" where unknown; assigned_n: categories.

    Returns:
        ``acc``, ``ari`` and ``nmi``; nothing where no cell has a label.
    """
    known_n = np.asarray(labels_n) != ""
    labels_n, assigned_n = np.asarray(labels_n)[known_n], np.asarray(assigned_n)[known_n]
    if len(labels_n) == 0:
        return {}
    return {
        "acc": hungarian_accuracy(labels_n, assigned_n),
        "ari": float(adjusted_rand_score(labels_n, assigned_n)),
        "nmi": float(normalized_mutual_info_score(labels_n, assigned_n)),
    }


def consensus_of_arms(assigned_an: np.ndarray) -> float:
    """Share of cells to which two arms give the same category, mean over pairs of arms; 1 for a single arm."""
    pairs = [float(np.mean(a == b)) for a, b in combinations(np.asarray(assigned_an), 2)]
    return float(np.mean(pairs)) if pairs else 1.0


def agreement_of_arms(assigned_an: np.ndarray) -> float | None:
    """Adjusted Rand index between the categories of two arms, mean over pairs of arms; None for a single arm.

    It is the consensus corrected for chance: 0 for arms that agree by chance or use a single category.
    """
    pairs = combinations(np.asarray(assigned_an), 2)
    scores = [float(adjusted_rand_score(a, b)) if len(np.unique(a)) > 1 else 0.0 for a, b in pairs]
    return float(np.mean(scores)) if scores else None


def kl_from_uniform(q_nk: np.ndarray) -> float:
    """KL(q(c) || p(c)) = sum_k q_k log(K q_k) in nats; q(c) is the mean posterior over cells, p(c) is uniform."""
    q_k = q_nk.mean(axis=0)
    return float(np.sum(q_k * np.log(np.maximum(q_k, 1e-30) * len(q_k))))


def posterior_scores(q_nk: np.ndarray) -> dict[str, float]:
    """Scores of a posterior: ``amp`` (mean over cells of max_k q_nk), ``kl_qc_pc``, and ``populated`` (number of
    categories that are the most probable one of a cell)."""
    return {
        "amp": float(q_nk.max(axis=1).mean()),
        "kl_qc_pc": kl_from_uniform(q_nk),
        "populated": float(len(np.unique(q_nk.argmax(axis=1)))),
    }


def score(
    log_q_ank: np.ndarray, consensus_nk: np.ndarray, labels_n: np.ndarray | None
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """All scores of the consensus, and those of each arm.

    Args:
        log_q_ank: log-posteriors of the arms, shape (A, n, K).
        consensus_nk: consensus posterior, shape (n, K).
        labels_n: known types as strings, "" where unknown; None omits the scores against labels.
    """
    if consensus_nk.shape[0] == 0:
        return {}, []

    def scores_of(q_nk: np.ndarray) -> dict[str, float]:
        by_label = {} if labels_n is None else label_scores(labels_n, q_nk.argmax(axis=1))
        return {**by_label, **posterior_scores(q_nk)}

    assigned_an = log_q_ank.argmax(axis=-1)
    consensus = {**scores_of(consensus_nk), "consensus": consensus_of_arms(assigned_an)}
    agreement = agreement_of_arms(assigned_an)
    if agreement is not None:
        consensus["agreement"] = agreement
    return consensus, [scores_of(np.exp(log_q_nk)) for log_q_nk in log_q_ank]
