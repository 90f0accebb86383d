"""Scores against values worked out by hand, by brute force, and by scikit-learn."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from cplmix_ray.metrics.category_scores import (
    agreement_of_arms,
    consensus_of_arms,
    hungarian_accuracy,
    kl_from_uniform,
    label_scores,
    posterior_scores,
    score,
)


def words(text: str) -> np.ndarray:
    return np.array(text.split())


# Hungarian accuracy


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_types_that_are_found_under_other_names_are_all_right(order):
    labels = words("a a b c c c")
    assigned = np.array(order)[[0, 0, 1, 2, 2, 2]]
    assert hungarian_accuracy(labels, assigned) == 1.0


@pytest.mark.parametrize(
    ("labels", "assigned", "expected"),
    [
        ("a a b b", [0, 0, 0, 1], 3 / 4),
        # More categories than types: one of a's two categories is left over.
        ("a a a a b b", [0, 0, 0, 1, 2, 2], 5 / 6),
        # Fewer: only one of two types can have the category that holds both.
        ("a a a b b c", [0, 0, 0, 0, 0, 1], 4 / 6),
        # A single category is the most abundant type.
        ("a a b b b c", [7, 7, 7, 7, 7, 7], 3 / 6),
        # A single type, spread over categories.
        ("a a a a", [0, 1, 1, 2], 2 / 4),
        # The largest overlap first, a with 0, would leave b with nothing: 4. The best is 3 + 3.
        ("a a a a a a a b b b", [0, 0, 0, 0, 1, 1, 1, 0, 0, 0], 6 / 10),
        # Names of categories need not be consecutive.
        ("a b", [40, 3], 1.0),
        ("a", [5], 1.0),
    ],
)
def test_accuracy_of_hand_made_cases(labels, assigned, expected):
    assert hungarian_accuracy(words(labels), np.array(assigned)) == pytest.approx(expected)


def accuracy_by_brute_force(labels: np.ndarray, assigned: np.ndarray) -> float:
    """The best over every one-to-one matching, with types or categories of no cells added until there are as many."""
    types, categories = sorted(set(labels)), sorted(set(assigned))
    side = max(len(types), len(categories))
    types += [None] * (side - len(types))
    best = 0
    for matched in permutations(types):
        type_of = dict(zip(categories, matched, strict=False))
        best = max(best, sum(type_of[c] == t for c, t in zip(assigned, labels, strict=True)))
    return best / len(labels)


@pytest.mark.parametrize(("n_types", "n_categories"), [(1, 4), (2, 2), (3, 5), (4, 4), (5, 3), (5, 5)])
def test_accuracy_is_the_best_over_all_matchings(n_types, n_categories):
    for seed in range(5):
        rng = np.random.default_rng([seed, n_types, n_categories])
        labels = rng.integers(n_types, size=40)
        # Half of the cells follow their type, so that matchings differ.
        assigned = np.where(rng.random(40) < 0.5, labels % n_categories, rng.integers(n_categories, size=40))
        names = np.array([f"type {label}" for label in labels])
        assert hungarian_accuracy(names, assigned) == pytest.approx(accuracy_by_brute_force(names, assigned)), seed


# Label scores


@pytest.mark.parametrize("seed", range(4))
def test_ari_and_nmi_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=60)
    assigned = np.where(rng.random(60) < 0.6, labels, rng.integers(6, size=60))
    scores = label_scores(labels.astype(str), assigned)
    assert set(scores) == {"acc", "ari", "nmi"}
    assert scores["ari"] == pytest.approx(adjusted_rand_score(labels, assigned))
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(labels, assigned))
    assert all(type(value) is float for value in scores.values())


def test_perfect_and_useless_categories_score_one_and_nothing():
    labels = words("a a b b c c")
    assert label_scores(labels, np.array([2, 2, 0, 0, 1, 1])) == pytest.approx({"acc": 1, "ari": 1, "nmi": 1})
    useless = label_scores(labels, np.zeros(6, int))
    assert useless == pytest.approx({"acc": 1 / 3, "ari": 0, "nmi": 0})


def test_nmi_by_hand():
    """Two even types, one category for each but half of b astray: arithmetic mean of the entropies."""
    labels, assigned = words("a a a a b b b b"), np.array([0, 0, 0, 0, 0, 0, 1, 1])
    joint = np.array([[4, 0], [2, 2]]) / 8
    independent = np.outer(joint.sum(1), joint.sum(0))
    held = joint > 0
    information = np.sum(joint[held] * np.log(joint[held] / independent[held]))
    entropies = [-np.sum(p * np.log(p)) for p in (joint.sum(0), joint.sum(1))]
    assert label_scores(labels, assigned)["nmi"] == pytest.approx(information / np.mean(entropies))


def test_cells_without_a_label_do_not_count():
    labels = np.array(["a", "", "a", "b", "", "b"])
    assigned = np.array([0, 1, 0, 1, 0, 1])
    assert label_scores(labels, assigned) == pytest.approx({"acc": 1, "ari": 1, "nmi": 1})
    worse = np.array([0, 1, 0, 1, 0, 0])
    assert label_scores(labels, worse)["acc"] == pytest.approx(3 / 4)
    assert label_scores(labels, worse) == label_scores(labels[labels != ""], worse[labels != ""])


def test_without_any_label_there_are_no_label_scores():
    assert label_scores(np.array(["", ""]), np.array([0, 1])) == {}
    assert label_scores(np.array([], dtype=str), np.array([], dtype=int)) == {}


# Scores that need no labels


def test_consensus_of_two_arms_is_the_share_of_cells_they_agree_on():
    assert consensus_of_arms(np.array([[0, 1, 2, 2], [0, 1, 1, 0]])) == pytest.approx(1 / 2)


def test_consensus_of_three_arms_is_the_mean_over_pairs():
    arms = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 2]])
    # 3 of 4, 2 of 4, 2 of 4.
    assert consensus_of_arms(arms) == pytest.approx((3 + 2 + 2) / 12)


def test_consensus_does_not_look_through_other_names():
    """The arms share their categories: equal partitions under other names are no agreement."""
    assert consensus_of_arms(np.array([[0, 0, 1, 1], [1, 1, 0, 0]])) == 0.0


def test_a_single_arm_agrees_with_itself():
    assert consensus_of_arms(np.array([[0, 1, 2]])) == 1.0


def test_amp_is_the_mean_largest_posterior():
    q = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.0, 1.0, 0.0]])
    assert posterior_scores(q)["amp"] == pytest.approx((0.5 + 0.7 + 1.0) / 3)


@pytest.mark.parametrize("k", [1, 2, 10, 120])
def test_even_use_is_at_no_distance_from_uniform(k):
    """However decided the posteriors are: it is their mean that is compared."""
    for q in (np.eye(k), np.full((7, k), 1 / k)):
        assert kl_from_uniform(q) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 10, 120])
def test_one_category_for_all_is_log_k_from_uniform(k):
    q = np.zeros((5, k), np.float32)
    q[:, k // 2] = 1.0
    assert kl_from_uniform(q) == pytest.approx(np.log(k), abs=1e-6)


def test_kl_from_uniform_by_hand():
    q = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    expected = 0.75 * np.log(0.75 * 3) + 0.25 * np.log(0.25 * 3)
    assert kl_from_uniform(q) == pytest.approx(expected)


def test_populated_counts_categories_that_are_the_most_probable_of_a_cell():
    q = np.array([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.4, 0.25, 0.35]])
    assert posterior_scores(q)["populated"] == 1
    assert posterior_scores(np.eye(3)[[0, 2, 2]])["populated"] == 2


# All of them


def posterior_of(assigned: list[int], k: int = 3) -> np.ndarray:
    """Log-posterior (n, K) that gives 0.8 to the category."""
    q = np.full((len(assigned), k), 0.2 / (k - 1))
    q[np.arange(len(assigned)), assigned] = 0.8
    return np.log(q)


def test_the_consensus_and_every_arm_have_their_own_scores():
    labels = words("a a b b")
    arms = np.stack([posterior_of([0, 0, 1, 1]), posterior_of([0, 0, 0, 1]), posterior_of([2, 2, 2, 2])])
    common, each = score(arms, np.exp(posterior_of([0, 0, 1, 2])), labels)
    assert set(common) == {"acc", "ari", "nmi", "amp", "kl_qc_pc", "populated", "consensus", "agreement"}
    assert common["acc"] == pytest.approx(3 / 4)
    assert common["consensus"] == pytest.approx((3 + 0 + 0) / 12)
    assert [scores["acc"] for scores in each] == pytest.approx([1.0, 3 / 4, 1 / 2])
    assert [scores["populated"] for scores in each] == [2, 2, 1]
    assert all(scores["amp"] == pytest.approx(0.8) for scores in [common, *each])
    assert all("consensus" not in scores for scores in each)


@pytest.mark.parametrize("labels", [None, np.array(["", "", "", ""])], ids=["none", "all missing"])
def test_without_labels_the_other_scores_remain(labels):
    arms = np.stack([posterior_of([0, 0, 1, 1])] * 2)
    common, each = score(arms, np.exp(arms[0]), labels)
    assert set(common) == {"amp", "kl_qc_pc", "populated", "consensus", "agreement"}
    assert all(set(scores) == {"amp", "kl_qc_pc", "populated"} for scores in each)


@pytest.mark.parametrize("labels", [None, np.array([], dtype=str)], ids=["no labels", "labels of no cells"])
def test_an_empty_validation_set_has_no_scores(labels):
    assert score(np.zeros((2, 0, 3)), np.zeros((0, 3)), labels) == ({}, [])


# Agreement


def test_arms_that_agree_under_other_names_do_agree_and_a_single_category_is_no_agreement():
    assert agreement_of_arms(np.array([[0, 0, 1, 1], [1, 1, 0, 0]])) == 1.0
    assert agreement_of_arms(np.array([[0, 0, 0, 0], [0, 0, 0, 0]])) == 0.0
    assert agreement_of_arms(np.array([[0, 1, 1, 0]])) is None
    three = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 0, 1]])
    pairs = [adjusted_rand_score(three[a], three[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert agreement_of_arms(three) == pytest.approx(np.mean(pairs))


def test_agreement_by_chance_is_none():
    rng = np.random.default_rng(0)
    assert abs(agreement_of_arms(rng.integers(0, 2, (2, 20_000)))) < 0.01
    assert consensus_of_arms(rng.integers(0, 2, (2, 20_000))) == pytest.approx(0.5, abs=0.02)
