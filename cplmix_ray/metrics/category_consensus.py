"""Consensus of the arms on each category."""

from itertools import combinations

import numpy as np


def consensus_of_categories(assigned_an: np.ndarray, n_categories: int) -> np.ndarray:
    """Of the cells to which at least one of two arms gives a category, the share to which both do, (K,).

    It is the Jaccard index of the cells that either arm gives it to, |both| / |either|, the mean over pairs of arms,
    and 0 for a category without cells. The categories on which arms agree least are pruned in MMIDAS (Marghi et al.
    2024).

    Args:
        assigned_an: category of each cell from each arm, at least two arms.
    """
    return np.mean([_jaccard(confusion(*pair, n_categories)) for pair in combinations(assigned_an, 2)], axis=0)


def _jaccard(confusion_kk: np.ndarray) -> np.ndarray:
    both_k = confusion_kk.diagonal()
    return both_k / np.maximum(confusion_kk.sum(0) + confusion_kk.sum(1) - both_k, 1)


def confusion(first_n: np.ndarray, second_n: np.ndarray, n_categories: int) -> np.ndarray:
    """Number of cells with each pair of categories, (K, K)."""
    return np.bincount(first_n * n_categories + second_n, minlength=n_categories**2).reshape(n_categories, -1)


def partners(assigned_an: np.ndarray, n_categories: int) -> np.ndarray:
    """For each category, the other one that arms confuse it with most often; -1 for one that they confuse with none."""
    confused_kk = np.sum([confusion(*pair, n_categories) for pair in combinations(assigned_an, 2)], axis=0)
    confused_kk = confused_kk + confused_kk.T
    np.fill_diagonal(confused_kk, 0)
    return np.where(confused_kk.any(axis=1), confused_kk.argmax(axis=1), -1)
