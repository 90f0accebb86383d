"""Scores of the continuous state against a known one, in closed cases."""

import anndata
import numpy as np
import pandas as pd
import pytest

from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.metrics.state_scores import FEWEST, best_coordinate, cross_validated, state_scores
from cplmix_ray.utils.errors import InputError

RHO, RIDGE = "state_rho", "state_ridge"


def rotated(points_nd: np.ndarray, degrees: float) -> np.ndarray:
    turn = np.deg2rad(degrees)
    return points_nd @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def cells(n: int = 300, n_types: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 2), types, and the first coordinate as a column of truth."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n, 2))
    return points, np.array([f"type {i % n_types}" for i in range(n)]), points[:, :1].copy()


@pytest.mark.parametrize(
    "change", [np.asarray, np.negative, np.exp, lambda x: 1e6 * x + 3], ids=["same", "-", "exp", "ax+b"]
)
def test_the_truth_itself_scores_one_whatever_its_direction_and_scale(change):
    points, labels, truth = cells()
    scores = state_scores(change(points), truth, labels, np.zeros(300, int))
    assert scores[RHO] == pytest.approx(1.0)
    assert scores[RIDGE] > (0.85 if change is np.exp else 0.98)
    assert scores["state_rho_in_categories"] == pytest.approx(1.0)
    assert (scores["state_cells"], scores["state_types"]) == (300, 3)


def test_a_turned_state_is_found_by_all_coordinates_together_and_not_by_one():
    points, labels, truth = cells(600)
    scores = state_scores(rotated(points, 45), truth, labels, np.zeros(600, int))
    assert scores[RIDGE] > 0.98
    assert scores[RHO] == pytest.approx(0.69, abs=0.06)  # Spearman's rho at a Pearson correlation of 1/sqrt(2)


def test_a_state_that_tells_nothing_scores_near_zero():
    rng = np.random.default_rng(5)
    _, labels, truth = cells(6000)
    scores = state_scores(rng.standard_normal((6000, 2)), truth, labels, rng.integers(0, 3, 6000))
    assert abs(scores[RIDGE]) < 0.05
    assert abs(scores["state_ridge_in_categories"]) < 0.05
    assert 0 <= scores[RHO] < 0.05


@pytest.mark.slow
def test_by_chance_the_best_of_two_coordinates_is_above_zero_and_the_regression_is_not():
    """The figures of docs/metrics.md: types of 20 cells and a state of two dimensions that tells nothing."""
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(200), FEWEST).astype(str)
    n = len(labels)
    scores = state_scores(rng.standard_normal((n, 2)), rng.standard_normal((n, 1)), labels, np.zeros(n, int))
    assert scores[RHO] == pytest.approx(0.25, abs=0.04)
    assert scores[RIDGE] == pytest.approx(0.0, abs=0.07)


def test_permuting_the_truth_inside_its_types_takes_the_score_away():
    points, labels, truth = cells(3000)
    rng = np.random.default_rng(1)
    null = truth.copy()
    for name in np.unique(labels):
        null[labels == name] = rng.permutation(null[labels == name])
    assert state_scores(points, truth, labels, np.zeros(3000, int))[RHO] == pytest.approx(1)
    permuted = state_scores(points, null, labels, np.zeros(3000, int))
    assert permuted[RHO] < 0.08
    assert abs(permuted[RIDGE]) < 0.08


def test_a_state_that_only_tells_the_types_apart_has_no_merit_inside_them():
    """Over all cells such a state goes with the truth; that is what the type explains, and it counts nowhere."""
    rng = np.random.default_rng(2)
    type_n = np.arange(3000) % 3
    truth = (10.0 * type_n + rng.standard_normal(3000))[:, None]
    state = (10.0 * type_n + rng.standard_normal(3000))[:, None]
    scores = state_scores(state, truth, type_n.astype(str), np.zeros(3000, int))
    assert scores[RHO] < 0.08
    assert scores["state_rho_in_categories"] > 0.85


def test_types_weigh_by_their_cells():
    """200 cells with the truth as state, 100 with none."""
    rng = np.random.default_rng(3)
    truth = rng.standard_normal((300, 1))
    labels = np.array(["known"] * 200 + ["lost"] * 100)
    state = truth.copy()
    state[200:] = 0.0
    assert state_scores(state, truth, labels, np.zeros(300, int))[RHO] == pytest.approx(2 / 3)
    assert best_coordinate(state[200:], truth[200:, 0]) == 0.0
    assert cross_validated(state[200:], truth[200:, 0]) == 0.0


def test_small_types_unnamed_cells_unknown_and_constant_truths_do_not_count():
    points, labels, truth = cells(400, 4)
    labels[labels == "type 3"] = ""
    at_2 = np.flatnonzero(labels == "type 2")
    truth[at_2] = 1.0  # constant
    at_1 = np.flatnonzero(labels == "type 1")
    truth[at_1[FEWEST - 1 :]] = np.nan  # one cell too few is left
    scores = state_scores(points, truth, labels, np.zeros(400, int))
    assert (scores["state_types"], scores["state_cells"]) == (1, 100)
    assert scores[RHO] == pytest.approx(1)
    truth[at_1[FEWEST - 1]] = points[at_1[FEWEST - 1], 0]
    more = state_scores(points, truth, labels, np.zeros(400, int))
    assert (more["state_types"], more["state_cells"]) == (2, 100 + FEWEST)


def test_several_columns_of_truth_are_averaged():
    points, labels, _ = cells(3000)
    truth = np.column_stack([points[:, 0], np.random.default_rng(9).standard_normal(3000)])
    scores = state_scores(points, truth, labels, np.zeros(3000, int))
    assert scores[RHO] == pytest.approx(0.5, abs=0.05)
    assert scores["state_cells"] == 3000


def test_what_cannot_be_told_is_left_out():
    points, labels, truth = cells()
    one = np.zeros(300, int)
    assert state_scores(points, None, labels, one) == {}
    assert state_scores(points, np.full((300, 1), np.nan), labels, one) == {}
    assert state_scores(points, truth[:, :0], labels, one) == {}
    assert state_scores(points[:5], truth[:5], labels[:5], one[:5]) == {}
    assert state_scores(points[:0], truth[:0], labels[:0], one[:0]) == {}
    unlabelled = state_scores(points, truth, None, one)
    assert set(unlabelled) == {"state_rho_in_categories", "state_ridge_in_categories"}


# The columns


def object_with(column) -> anndata.AnnData:
    return anndata.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame({"age": column}, index=list("abc")))


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1.5, 2, None], [1.5, 2, np.nan]),
        ([1, 2, 3], [1, 2, 3]),
        (["1", "2.5", None], [1, 2.5, np.nan]),
        (pd.Categorical([3.75, 30, 3.75]), [3.75, 30, 3.75]),
        ([np.inf, 1, 2], [np.nan, 1, 2]),
        ([True, False, True], [1, 0, 1]),
    ],
    ids=["missing", "whole", "words", "categories", "infinite", "switches"],
)
def test_known_states_are_numbers_and_the_missing_ones_are_nan(column, expected):
    truth = source_from_anndata(object_with(column), state_key=("age",)).truth_nm
    np.testing.assert_array_equal(truth, np.array(expected, float)[:, None])


def test_a_column_that_is_not_there_or_no_number_is_refused():
    adata = object_with([1, 2, 3])
    with pytest.raises(InputError, match=r"'size'.*--state-key.*age"):
        source_from_anndata(adata, state_key=("size",))
    with pytest.raises(InputError, match=r"'age'.*'old'|'old'.*'age'"):
        source_from_anndata(object_with(["old", "1", "2"]), state_key=("age",))
    assert source_from_anndata(adata).truth_nm is None
