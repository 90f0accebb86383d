"""The consensus of several seeds, and how often categories and cells come back."""

import numpy as np
import pytest

from cplmix_ray.analysis.stability import consensus_of_seeds, stability_table
from cplmix_ray.metrics.matching import NO_PARTNER, count_overlaps, jaccard_indices, match_categories
from cplmix_ray.runs.seeds import stability_remarks


def posteriors(category_n: np.ndarray, n_categories: int, confidence: float = 0.9) -> np.ndarray:
    """Posteriors with the given categories, the rest of the probability spread evenly."""
    probs_nk = np.full((len(category_n), n_categories), (1 - confidence) / (n_categories - 1))
    probs_nk[np.arange(len(category_n)), category_n] = confidence
    return probs_nk


@pytest.fixture
def noisy() -> list[np.ndarray]:
    """Posteriors of five runs, each with a tenth of the cells in random categories."""
    rng = np.random.default_rng(0)
    true_n = rng.integers(0, 6, 400)
    wrong_sn = rng.random((5, 400)) < 0.1
    return [posteriors(np.where(wrong_n, rng.integers(0, 6, 400), true_n), 6) for wrong_n in wrong_sn]


def test_identical_runs_are_stable():
    category_n = np.arange(60) % 4
    found = consensus_of_seeds([posteriors(category_n, 4)] * 3)
    np.testing.assert_array_equal(found.category_n, category_n)
    np.testing.assert_allclose(found.probs_nk, posteriors(category_n, 4))
    assert found.agreement == 1
    assert (found.stability_n == 1).all()
    table = stability_table(found)
    assert (table[["jaccard", "jaccard_min", "recovered", "stays"]] == 1).all(axis=None)
    assert table["cells"].tolist() == [15] * 4


def test_numbers_of_categories_do_not_matter(noisy):
    rng = np.random.default_rng(1)
    before = consensus_of_seeds(noisy)
    permuted = [
        noisy[before.medoid] if s == before.medoid else each[:, rng.permutation(6)] for s, each in enumerate(noisy)
    ]
    after = consensus_of_seeds(permuted)
    assert (after.medoid, after.agreement) == (before.medoid, before.agreement)
    np.testing.assert_allclose(after.probs_nk, before.probs_nk)
    np.testing.assert_array_equal(after.stability_n, before.stability_n)


def test_the_consensus_is_closer_to_the_types_than_the_runs(noisy):
    rng = np.random.default_rng(0)
    true_n = rng.integers(0, 6, 400)
    found = consensus_of_seeds(noisy)
    partner_k = match_categories(count_overlaps(found.category_n, true_n, 6, 6))
    wrong = (partner_k[found.category_n] != true_n).mean()
    assert wrong < 0.01 < min((probs_nk.argmax(axis=1) != true_n).mean() for probs_nk in noisy)


@pytest.mark.parametrize(("n_off", "jaccard", "recovered"), [(1, 0.75, 1.0), (2, 0.5, 0.5)])
def test_a_category_that_half_of_the_seeds_split(n_off, jaccard, recovered):
    """Of the four cells of category 0, two of four runs have the last ones in a category of their own."""
    whole_n = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    split_n = whole_n.copy()
    split_n[4 - n_off : 4] = 2
    runs = [posteriors(whole_n, 3), posteriors(split_n, 3, 0.6)] * 2
    found = consensus_of_seeds(runs)
    np.testing.assert_array_equal(found.category_n, whole_n)
    table = stability_table(found).set_index("category")
    mean = (1 + 1 + jaccard + jaccard) / 4
    assert table.loc[0].tolist() == [4, mean, jaccard, recovered, (4 + 4 + 2 * (4 - n_off)) / 16]
    assert table.loc[1].tolist() == [4, 1, 1, 1, 1]
    assert table.loc[2, "cells"] == 0
    assert table.loc[2, ["jaccard", "recovered", "stays"]].isna().all()
    assert found.stability_n.tolist() == [1] * (4 - n_off) + [0.5] * n_off + [1] * 4


def test_runs_may_have_different_numbers_of_categories():
    """A category that the medoid lacks has no partner: its cells stay in none of the categories in that run."""
    two_n, three_n = np.repeat([0, 1], 20), np.repeat([0, 1, 2], [20, 15, 5])
    found = consensus_of_seeds([posteriors(three_n, 3), posteriors(two_n, 2), posteriors(1 - two_n, 2)])
    assert found.probs_nk.shape == (40, 2)
    np.testing.assert_allclose(found.probs_nk.sum(axis=1), 1)
    assert (found.matched_sn[0, 35:] == NO_PARTNER).all()
    np.testing.assert_allclose(found.stability_n, np.repeat([1, 2 / 3], [35, 5]))
    assert stability_table(found)["jaccard"].tolist() == pytest.approx([1, (0.75 + 1 + 1) / 3])


def test_categories_that_most_seeds_lack_are_named():
    runs = [posteriors(np.repeat([0, 1], 20), 3, 0.6), posteriors(np.repeat([0, 1, 2], [20, 10, 10]), 3, 0.999)]
    runs += [posteriors(np.repeat([0, 1, 2], [20, 6, 14])[::1], 3, 0.6), posteriors(np.repeat([0, 1], 20), 3, 0.6)]
    table = stability_table(consensus_of_seeds(runs))
    rare = table[table["recovered"] < 0.5]
    (line,) = stability_remarks(table, 4)
    assert all(f"{row.category} ({row.cells} cells" in line for row in rare.itertuples())


def test_a_matching_with_more_categories_leaves_some_without_partner():
    overlap_kl = np.array([[5, 0], [4, 6], [1, 2]])
    assert match_categories(overlap_kl).tolist() == [0, 1, NO_PARTNER]
    assert match_categories(overlap_kl.T).tolist() == [0, 1]


def test_jaccard_indices():
    overlap_kl = count_overlaps(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1]), 3, 3)
    np.testing.assert_allclose(jaccard_indices(overlap_kl), [[2 / 3, 1 / 5, 0], [0, 2 / 3, 0], [0, 0, 0]])
