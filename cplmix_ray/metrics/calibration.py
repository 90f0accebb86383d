"""Calibration of the confidence: whether cells of confidence p are correct in a share p of the cases."""

from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import roc_auc_score

from cplmix_ray.metrics.category_scores import correct_cells
from cplmix_ray.utils.figures import new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BINS = 15
"""Bins of equal width into which confidences are sorted; (0, 1/15] is the first."""


def calibration_scores(
    labels_n: np.ndarray, q_nk: np.ndarray, confidence_n: np.ndarray | None = None
) -> dict[str, float]:
    """Calibration error of the confidence, and how well it tells correct cells from wrong ones.

    ECE = 1/n sum_b |sum_{i in b} (p_i - right_i)|, where p_i is the confidence of cell i, b a bin, and right_i is 1 if
    the type matched with the most probable category is that of the cell (Guo et al. 2017).

    Args:
        labels_n: known types, "" where unknown; q_nk: posteriors, shape (n, K).
        confidence_n: confidence of the most probable category; None: its probability.

    Returns:
        ``ece``, ``ece_uncalibrated`` (of the largest probability, if another confidence is given), and ``error_auc``
        where some of the cells are correct and some are not; nothing without a label.
    """
    p_n, correct_n = _labelled(labels_n, q_nk, confidence_n)
    if len(p_n) == 0:
        return {}
    scores = {"ece": _calibration_error(p_n, correct_n)}
    if confidence_n is not None:
        scores["ece_uncalibrated"] = _calibration_error(*_labelled(labels_n, q_nk))
    if 0 < correct_n.sum() < len(correct_n):
        scores["error_auc"] = float(roc_auc_score(correct_n, p_n))
    return scores


def _calibration_error(confidence_n: np.ndarray, correct_n: np.ndarray) -> float:
    gap_b = np.bincount(_bins(confidence_n), weights=confidence_n - correct_n)
    return float(np.abs(gap_b).sum() / len(confidence_n))


def reliability_table(labels_n: np.ndarray, q_nk: np.ndarray, confidence_n: np.ndarray | None = None) -> "pd.DataFrame":
    """Confidence and share of correct cells, a row for each bin that has labelled cells.

    Args:
        labels_n: known types, "" where unknown; q_nk: posteriors, shape (n, K).
        confidence_n: confidence of the most probable category; None: its probability.

    Returns:
        ``lower`` and ``upper`` (ends of the bin), ``cells``, ``confidence`` (mean), ``correct`` (share).
    """
    import pandas as pd

    confidence_n, correct_n = _labelled(labels_n, q_nk, confidence_n)
    cells = pd.DataFrame({"bin": _bins(confidence_n), "confidence": confidence_n, "correct": correct_n})
    table = cells.groupby("bin").agg(
        cells=("correct", "size"), confidence=("confidence", "mean"), correct=("correct", "mean")
    )
    table.insert(0, "lower", table.index / BINS)
    table.insert(1, "upper", (table.index + 1) / BINS)
    return table.reset_index(drop=True)


def both_reliability_tables(
    labels_n: np.ndarray, q_nk: np.ndarray, confidence_n: np.ndarray | None = None
) -> "pd.DataFrame":
    """The rows of :func:`reliability_table` of the calibrated confidence, if there is one, and of the largest
    probability; ``of`` says which."""
    import pandas as pd

    tables = {"calibrated": reliability_table(labels_n, q_nk, confidence_n)} if confidence_n is not None else {}
    tables["probability"] = reliability_table(labels_n, q_nk)
    for name, table in tables.items():
        table.insert(0, "of", name)
    return pd.concat(tables.values(), ignore_index=True)


def draw_reliability(table: "pd.DataFrame") -> "Figure":
    """Share of correct cells against confidence, before and after calibration; the area of a point is its cells."""
    figure = new_figure(4.2, 4.0)
    panel = figure.subplots()
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for name, rows in table.groupby("of", sort=False):
        label = {"calibrated": "confidence", "probability": "largest probability"}[str(name)]
        panel.plot(rows["confidence"], rows["correct"], alpha=0.4, linewidth=1)
        panel.scatter(rows["confidence"], rows["correct"], 300 * rows["cells"] / rows["cells"].sum() + 4, label=label)
    panel.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="share of correct cells")
    if len(table):
        panel.legend(loc="upper left", frameon=False)
    panel.grid(alpha=0.3)
    return figure


def _labelled(
    labels_n: np.ndarray, q_nk: np.ndarray, confidence_n: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and whether the category is correct, of the cells with a label."""
    known_n = np.asarray(labels_n) != ""
    p_n = q_nk.max(axis=1) if confidence_n is None else confidence_n
    return p_n[known_n].astype(float), correct_cells(np.asarray(labels_n)[known_n], q_nk[known_n].argmax(axis=1))


def _bins(confidence_n: np.ndarray) -> np.ndarray:
    return np.digitize(confidence_n, np.arange(1, BINS) / BINS, right=True)
