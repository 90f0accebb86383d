"""Calibration of the confidence: closed forms, scikit-learn, and the table that a run leaves."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import calibration_curve

from cplmix_ray.metrics.calibration import BINS, calibration_scores, reliability_table
from cplmix_ray.metrics.category_scores import correct_cells


def posteriors(confidence_n: np.ndarray, category_n: np.ndarray, n_categories: int) -> np.ndarray:
    """Posteriors with the given largest probability; the other categories share the rest."""
    q_nk = np.repeat(((1 - confidence_n) / (n_categories - 1))[:, None], n_categories, axis=1)
    q_nk[np.arange(len(q_nk)), category_n] = confidence_n
    return q_nk


def sampled(seed: int, n: int = 20_000, k: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Types that are drawn from their posteriors, which are therefore calibrated."""
    rng = np.random.default_rng(seed)
    q_nk = rng.dirichlet(np.full(k, 0.4), n)
    type_n = (rng.random((n, 1)) > q_nk.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)
    return np.char.add("type ", type_n.astype(str)), q_nk


def test_types_drawn_from_the_posterior_are_calibrated():
    labels_n, q_nk = sampled(0)
    scores = calibration_scores(labels_n, q_nk)
    assert scores["ece"] < 0.01  # 15 bins of 1,300 cells on average: about 0.8 x 0.4 / sqrt(1,300)
    # Of the ROC curve: error 1-p against confidence p, cells of density f: P(p_error < p_correct), by sorting.
    confidence_n = q_nk.max(axis=1)
    order = np.sort(confidence_n)
    wrong_below = np.cumsum(1 - order) - (1 - order) / 2
    expected = (order * wrong_below).sum() / (order.sum() * (1 - order).sum())
    assert scores["error_auc"] == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("confidence", "share"), [(0.99, 0.6), (0.5, 0.9), (0.8, 0.8)])
def test_the_error_of_one_confidence_is_its_distance_from_the_accuracy(confidence, share):
    type_n = np.tile(np.repeat([0, 1], 50), 10)
    wrong_n = np.arange(len(type_n)) % 50 >= 50 * share
    q_nk = posteriors(np.full(len(type_n), confidence), np.where(wrong_n, 2, type_n), 3)
    # The third category has no type, so its cells are wrong.
    scores = calibration_scores(type_n.astype(str), q_nk)
    assert scores == pytest.approx({"ece": abs(confidence - share), "error_auc": 0.5})


def test_confidence_that_separates_right_from_wrong():
    type_n = np.repeat([0, 1], 50)
    wrong_n = np.arange(100) % 10 == 0
    category_n = np.where(wrong_n, 1 - type_n, type_n)
    q_nk = posteriors(np.where(wrong_n, 0.6, 0.95), category_n, 2)
    assert calibration_scores(type_n.astype(str), q_nk)["error_auc"] == 1.0
    q_nk = posteriors(np.where(wrong_n, 0.95, 0.6), category_n, 2)
    assert calibration_scores(type_n.astype(str), q_nk)["error_auc"] == 0.0


def test_errors_are_predicted_only_where_there_are_some():
    type_n = np.repeat([0, 1], 10)
    assert calibration_scores(type_n.astype(str), np.eye(2)[type_n]) == {"ece": 0.0}
    assert calibration_scores(np.full(20, ""), np.eye(2)[type_n]) == {}
    assert len(reliability_table(np.full(20, ""), np.eye(2)[type_n])) == 0


@pytest.mark.parametrize("seed", range(3))
def test_names_of_categories_and_cells_without_a_label_do_not_matter(seed):
    labels_n, q_nk = sampled(seed, 3_000)
    order = np.random.default_rng(seed).permutation(q_nk.shape[1])
    expected = calibration_scores(labels_n, q_nk)
    assert calibration_scores(labels_n, q_nk[:, order]) == pytest.approx(expected)
    pd.testing.assert_frame_equal(reliability_table(labels_n, q_nk[:, order]), reliability_table(labels_n, q_nk))
    more_n, more_nk = np.append(labels_n, np.full(500, "")), np.concatenate([q_nk, q_nk[:500]])
    assert calibration_scores(more_n, more_nk) == pytest.approx(expected)


def test_the_table_is_the_curve_of_scikit_learn_and_sums_to_the_error():
    labels_n, q_nk = sampled(1, 2_000)
    q_nk = q_nk**3 / (q_nk**3).sum(axis=1, keepdims=True)  # overconfident
    table = reliability_table(labels_n, q_nk)
    confidence_n, correct_n = q_nk.max(axis=1), correct_cells(labels_n, q_nk.argmax(axis=1))
    share_b, mean_b = calibration_curve(correct_n, confidence_n, n_bins=BINS)
    np.testing.assert_allclose(table["correct"], share_b)
    np.testing.assert_allclose(table["confidence"], mean_b)
    assert table["cells"].sum() == 2_000
    assert ((table["lower"] < table["confidence"]) & (table["confidence"] <= table["upper"])).all()
    error = (table["cells"] * (table["confidence"] - table["correct"]).abs()).sum() / 2_000
    assert calibration_scores(labels_n, q_nk)["ece"] == pytest.approx(error)
    assert error > 0.1


def test_correct_cells_are_those_of_the_matching():
    labels_n = np.array(["a", "a", "a", "a", "b", "b", "c"])
    # Category 9 has most of a, 4 has b; 7 is a second category of a, and c is left without one.
    assigned_n = np.array([9, 9, 9, 7, 4, 4, 4])
    assert correct_cells(labels_n, assigned_n).tolist() == [True, True, True, False, True, True, False]
