"""Scores that need no labels."""

from itertools import combinations

import numpy as np
from sklearn.metrics import adjusted_rand_score


def consensus_of_arms(assigned_an: np.ndarray) -> float:
    """Share of cells to which two arms give the same category, mean over pairs of arms; 1 for a single arm."""
    pairs = [float(np.mean(a == b)) for a, b in combinations(np.asarray(assigned_an), 2)]
    return float(np.mean(pairs)) if pairs else 1.0


def agreement_of_arms(assigned_an: np.ndarray) -> float | None:
    """Adjusted Rand index between two arms' categories, mean over pairs of arms; None for a single arm.

    Unlike the consensus it is corrected for chance: 0 for arms that agree by accident or use a single category.
    """
    pairs = combinations(np.asarray(assigned_an), 2)
    scores = [float(adjusted_rand_score(a, b)) if len(np.unique(a)) > 1 else 0.0 for a, b in pairs]
    return float(np.mean(scores)) if scores else None


def kl_from_uniform(q_nk: np.ndarray) -> float:
    """KL(q(c) || p(c)) in nats: q(c) is the mean posterior over cells, p(c) is uniform over the K categories."""
    q_k = q_nk.mean(axis=0)
    return float(np.sum(q_k * np.log(np.maximum(q_k, 1e-30) * len(q_k))))


def posterior_scores(q_nk: np.ndarray) -> dict[str, float]:
    """AMP (mean largest posterior), KL(q(c)||p(c)) and how many categories at least one cell is assigned to."""
    return {
        "amp": float(q_nk.max(axis=1).mean()),
        "kl_qc_pc": kl_from_uniform(q_nk),
        "populated": float(len(np.unique(q_nk.argmax(axis=1)))),
    }
