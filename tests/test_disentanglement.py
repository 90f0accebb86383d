"""The disentanglement score against states whose answer is known."""

import itertools

import numpy as np
import pytest

from cplmix_ray.metrics.disentanglement import disentanglement

FACTORS = np.array(list(itertools.product(range(3), range(4), range(5), range(6), range(6))))
N = len(FACTORS)
NO_CATEGORY = np.zeros(N, int)


def score_of(state_nd, category_n=NO_CATEGORY, factors_nf=FACTORS, seed=0) -> float:
    return disentanglement(np.asarray(state_nd, np.float32), category_n, factors_nf, seed)["disentanglement"]


def test_a_state_that_is_the_factors_scores_1():
    assert score_of(FACTORS) == 1.0


@pytest.mark.parametrize("change", [lambda s: s[:, ::-1], lambda s: -7 * s + 3, lambda s: np.exp(s)])
def test_order_sign_and_size_of_the_dimensions_do_not_matter(change):
    assert score_of(change(FACTORS.astype(float))) == 1.0


def test_a_factor_with_two_dimensions_of_its_own_still_scores_1():
    assert score_of(np.concatenate([FACTORS, FACTORS[:, :1] ** 2], axis=1)) == 1.0


def test_noise_scores_about_chance():
    scores = [score_of(np.random.default_rng(seed).normal(size=(N, 6)), seed=seed) for seed in range(5)]
    assert np.mean(scores) == pytest.approx(1 / 5, abs=0.04)


def test_turned_dimensions_score_less():
    """Each dimension mixes all factors alike."""
    orthogonal = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    standard = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
    assert score_of(standard @ orthogonal) < 0.9


def test_one_factor_left_out_costs_its_share():
    """Four of five factors are told; votes for the fifth go to noise, which is told as the fifth where it can."""
    told = score_of(FACTORS[:, 1:])
    assert told == pytest.approx(4 / 5, abs=0.06)


def test_the_category_is_one_dimension_more():
    assert score_of(FACTORS[:, 1:], category_n=FACTORS[:, 0]) == 1.0
    relabelled = np.array([2, 0, 1])[FACTORS[:, 0]]
    assert score_of(FACTORS[:, 1:], category_n=relabelled) == 1.0


def test_a_dimension_that_has_collapsed_takes_no_part():
    """Else its tiny variance, all of it noise, would still count."""
    collapsed = np.random.default_rng(0).normal(0, 0.1, (N, 3))
    assert score_of(np.concatenate([FACTORS, collapsed], axis=1)) == 1.0
    assert score_of(collapsed) == 0.0
    assert score_of(collapsed, category_n=FACTORS[:, 0]) == pytest.approx(1 / 5, abs=0.05)


def test_the_seed_decides():
    state = np.random.default_rng(0).normal(size=(N, 6))
    assert score_of(state, seed=3) == score_of(state, seed=3)
    assert len({score_of(state, seed=seed) for seed in range(6)}) > 1


def test_a_subset_suffices():
    rows = np.random.default_rng(0).permutation(N)[:500]
    assert score_of(FACTORS[rows], NO_CATEGORY[rows], FACTORS[rows]) > 0.99


def test_no_factor_no_score():
    assert disentanglement(np.zeros((9, 2)), np.zeros(9, int), np.zeros((9, 0), int), 0) == {}
