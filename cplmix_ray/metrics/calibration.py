"""Calibration of the confidence: whether cells of confidence p are correct in a share p of the cases."""

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score

from cplmix_ray.metrics.category_scores import correct_cells

if TYPE_CHECKING:
    import pandas as pd

BINS = 15
"""Bins of equal width into which confidences are sorted; (0, 1/15] is the first."""


def calibration_scores(labels_n: np.ndarray, q_nk: np.ndarray) -> dict[str, float]:
    """Calibration error of the largest probability, and how well it tells correct cells from wrong ones.

    ECE = 1/n sum_b |sum_{i in b} (p_i - right_i)|, where p_i is the largest probability of cell i, b a bin, and right_i
    is 1 if the type matched with the most probable category is that of the cell (Guo et al. 2017).

    Args:
        labels_n: known types, "" where unknown; q_nk: posteriors, shape (n, K).

    Returns:
        ``ece``, and ``error_auc`` where some of the cells are correct and some are not; nothing without a label.
    """
    confidence_n, correct_n = _labelled(labels_n, q_nk)
    if len(confidence_n) == 0:
        return {}
    gap_b = np.bincount(_bins(confidence_n), weights=confidence_n - correct_n)
    scores = {"ece": float(np.abs(gap_b).sum() / len(confidence_n))}
    if 0 < correct_n.sum() < len(correct_n):
        scores["error_auc"] = float(roc_auc_score(correct_n, confidence_n))
    return scores


def reliability_table(labels_n: np.ndarray, q_nk: np.ndarray) -> "pd.DataFrame":
    """Confidence and share of correct cells, a row for each bin that has labelled cells.

    Args:
        labels_n: known types, "" where unknown; q_nk: posteriors, shape (n, K).

    Returns:
        ``lower`` and ``upper`` (ends of the bin), ``cells``, ``confidence`` (mean), ``correct`` (share).
    """
    import pandas as pd

    confidence_n, correct_n = _labelled(labels_n, q_nk)
    cells = pd.DataFrame({"bin": _bins(confidence_n), "confidence": confidence_n, "correct": correct_n})
    table = cells.groupby("bin").agg(
        cells=("correct", "size"), confidence=("confidence", "mean"), correct=("correct", "mean")
    )
    table.insert(0, "lower", table.index / BINS)
    table.insert(1, "upper", (table.index + 1) / BINS)
    return table.reset_index(drop=True)


def _labelled(labels_n: np.ndarray, q_nk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and whether the category is correct, of the cells with a label."""
    known_n = np.asarray(labels_n) != ""
    known_nk = q_nk[known_n]
    return known_nk.max(axis=1).astype(float), correct_cells(np.asarray(labels_n)[known_n], known_nk.argmax(axis=1))


def _bins(confidence_n: np.ndarray) -> np.ndarray:
    return np.digitize(confidence_n, np.arange(1, BINS) / BINS, right=True)
