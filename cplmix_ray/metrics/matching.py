"""Categories of one clustering matched with those of another by the cells that they share."""

import numpy as np
from scipy.optimize import linear_sum_assignment

NO_PARTNER = -1


def count_overlaps(a_n: np.ndarray, b_n: np.ndarray, n_a: int, n_b: int) -> np.ndarray:
    """Number of cells in category k of ``a_n`` and category l of ``b_n``, shape (n_a, n_b)."""
    codes_n = np.asarray(a_n, np.int64) * n_b + np.asarray(b_n, np.int64)
    return np.bincount(codes_n, minlength=n_a * n_b).reshape(n_a, n_b)


def match_categories(overlap_kl: np.ndarray) -> np.ndarray:
    """The one-to-one matching that shares most cells (Kuhn 1955).

    Args:
        overlap_kl: numbers of shared cells, or sums of products of probabilities.

    Returns:
        The partner of each category k; NO_PARTNER for those that are left over.
    """
    partner_k = np.full(len(overlap_kl), NO_PARTNER)
    rows, columns = linear_sum_assignment(overlap_kl, maximize=True)
    partner_k[rows] = columns
    return partner_k


def jaccard_indices(overlap_kl: np.ndarray) -> np.ndarray:
    """Cells in both categories divided by cells in at least one of them, shape (k, l); 0 for two empty ones."""
    union_kl = overlap_kl.sum(axis=1, keepdims=True) + overlap_kl.sum(axis=0) - overlap_kl
    return overlap_kl / np.maximum(union_kl, 1)
