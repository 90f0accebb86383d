"""Ensembles of partitions and the merging of fine categories, on cases whose answer is known."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.clustering.kmeans_ensemble import build_ensemble
from cplmix_ray.clustering.merging import joint_distribution, merge_by_lift
from cplmix_ray.data.neighbors.initial_clustering import pearson_residuals, views_of


def planted(sizes: list[int], spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points about well separated directions, in random order, and which direction."""
    rng = np.random.default_rng(seed)
    centres = np.eye(len(sizes)) * 10
    kinds = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    points = np.pad(centres[kinds], ((0, 0), (0, 3))) + spread * rng.standard_normal((len(kinds), len(sizes) + 3))
    return points.astype(np.float32), kinds


# Merging


def test_the_joint_distribution_is_symmetric_and_sums_to_one():
    first, second = np.eye(3)[[0, 0, 1, 2]], np.eye(3)[[0, 1, 1, 2]]
    joint = joint_distribution(first, second)
    np.testing.assert_allclose(joint, joint.T)
    np.testing.assert_allclose(joint, np.array([[2, 1, 0], [1, 2, 0], [0, 0, 2]]) / 8)


def test_parts_that_are_confused_are_merged_and_numbered_by_abundance():
    """Six parts: 0, 3 and 5 are one type, 1 and 4 another, 2 the third."""
    joint = np.diag([10.0, 30.0, 20.0, 10.0, 30.0, 10.0])
    for k, m in ((0, 3), (3, 5), (1, 4)):
        joint[k, m] = joint[m, k] = 4.0
    merged = merge_by_lift(joint, joint.sum(axis=1), 3)
    assert merged.tolist() == [1, 0, 2, 1, 0, 1]


def test_a_rare_type_stays_when_an_abundant_one_is_in_many_parts():
    """Confusion alone, without the sizes, would merge the rare type with the abundant one first."""
    joint = np.array([[400.0, 60.0, 3.0], [60.0, 400.0, 2.0], [3.0, 2.0, 5.0]])
    assert merge_by_lift(joint, joint.sum(axis=1), 2).tolist() == [0, 0, 1]


def test_fewer_used_parts_than_categories_stay_apart_and_unused_ones_have_a_place():
    joint = np.diag([3.0, 0.0, 1.0])
    assert merge_by_lift(joint, joint.sum(axis=1), 3).tolist() == [0, 0, 1]


@pytest.mark.parametrize("n_categories", [1, 2, 5])
def test_merging_leaves_as_many_categories_as_asked(n_categories):
    joint = np.random.default_rng(0).random((9, 9))
    joint += joint.T
    assert len(np.unique(merge_by_lift(joint, joint.sum(axis=1), n_categories))) == n_categories


def test_merging_does_not_know_the_order_of_the_parts():
    joint = np.random.default_rng(1).random((8, 8))
    joint += joint.T
    order = np.random.default_rng(2).permutation(8)
    one = merge_by_lift(joint, joint.sum(axis=1), 3)
    other = merge_by_lift(joint[np.ix_(order, order)], joint.sum(axis=1)[order], 3)
    assert adjusted_rand_score(one[order], other) == 1.0


# Ensembles


def test_planted_clusters_of_unlike_size_are_found():
    points, kinds = planted([200, 60, 60, 12], spread=0.5)
    ensemble = build_ensemble([points], 4, seed=0)
    assert adjusted_rand_score(kinds, ensemble.guess_n) == 1.0
    assert ensemble.points_nk.shape == (332, 4)


def test_cells_of_one_cluster_are_near_in_the_embedding():
    points, kinds = planted([80, 50, 30], spread=0.5)
    embedding = build_ensemble([points], 3, seed=1).points_nk
    apart = np.linalg.norm(embedding[:, None] - embedding[None], axis=-1)
    same = kinds[:, None] == kinds[None]
    assert apart[same].max() < apart[~same].min()


def test_views_that_see_different_clusters_are_joined():
    """One view tells type 0 from the others, another type 2 from the others: together they tell all three."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 60)
    views = []
    for seen in (0, 2):
        centre = np.where((kinds == seen)[:, None], np.eye(12)[0], np.eye(12)[1])
        views.append((8 * centre + rng.standard_normal((180, 12))).astype(np.float32))
    assert adjusted_rand_score(kinds, build_ensemble(views, 3, seed=0).guess_n) > 0.9


def test_an_ensemble_is_a_function_of_its_seed():
    points, _ = planted([40, 40, 40], spread=4.0)
    one, same, other = (build_ensemble([points], 3, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.guess_n, same.guess_n)
    np.testing.assert_array_equal(one.points_nk, same.points_nk)
    assert not np.array_equal(one.points_nk, other.points_nk)


@pytest.mark.parametrize(("n", "k"), [(3, 1), (5, 5), (4, 2), (40, 1)])
def test_few_cells_or_one_category_are_legal(n, k):
    points = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    ensemble = build_ensemble([points], k, seed=0)
    assert ensemble.guess_n.shape == (n,) and ensemble.guess_n.max() < k
    assert np.isfinite(ensemble.points_nk).all()


def test_cells_that_are_all_alike_are_legal():
    ensemble = build_ensemble([np.ones((30, 3), np.float32)], 4, seed=0)
    assert np.isfinite(ensemble.points_nk).all() and ensemble.guess_n.max() < 4


# Views


def counts_of(n: int = 60, g: int = 25) -> np.ndarray:
    return np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(0.7, 3.0, (n, g))).astype(np.float32)


def test_residuals_are_those_of_scanpy():
    scanpy, anndata = pytest.importorskip("scanpy"), pytest.importorskip("anndata")
    counts = counts_of()
    expected = scanpy.experimental.pp.normalize_pearson_residuals(anndata.AnnData(counts.copy()), inplace=False)["X"]
    ours = pearson_residuals(counts, counts.sum(axis=0) / counts.sum(), len(counts))
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_views_are_the_components_of_sklearn_dense_or_sparse_whole_or_in_blocks(monkeypatch):
    from sklearn.decomposition import PCA

    counts = counts_of()
    logged = np.log1p(counts)
    none = np.zeros((len(logged), 0))  # covariates
    whole = views_of(logged, counts, none, seed=0)
    assert [view.shape for view in whole] == [(60, 24)] * 3
    scaled = (logged - logged.mean(0)) / (logged.std(0) + 1e-6)
    for view, values in zip(whole, (logged, scaled.clip(-10, 10)), strict=False):
        expected = PCA(5).fit_transform(values)
        np.testing.assert_allclose(np.abs(view[:, :5]), np.abs(expected), rtol=1e-2, atol=1e-2)
    monkeypatch.setattr("cplmix_ray.data.neighbors.initial_clustering._BLOCK", 7)
    for one, other in zip(whole, views_of(sp.csr_matrix(logged), sp.csr_matrix(counts), none, seed=0), strict=True):
        np.testing.assert_allclose(np.abs(one[:, :5]), np.abs(other[:, :5]), rtol=1e-3, atol=1e-3)
    assert len(views_of(logged, None, none, seed=0)) == 2
