"""Student-t mixtures, moves out of local optima, halves of cells, and what arms learn from them."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import multivariate_t
from sklearn.metrics import adjusted_rand_score
from test_stages import config_of, data_of, planted, run, snapshots_of

from cplmix_ray.clustering.split_merge import split_and_merge
from cplmix_ray.clustering.student_mixture import DEGREES_OF_FREEDOM, fit_mixture
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.neighbors.initial_clustering import scaled_components
from cplmix_ray.data.neighbors.mixtures import mixture_categories
from cplmix_ray.data.neighbors.shares import halves_of_cells
from cplmix_ray.models.registry import build_dataset

MIXTURES = {
    "alignment": {"align_steps": 8, "align_guess": 1.0, "initial_clustering": "mixtures"},
    "copies": {"neighbour_space": "clustering"},
}


def groups(means: list[float], sizes: list[int], seed: int = 0, p: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, p) of spherical Gaussian groups with means on the first axis, and the group of each point."""
    rng, kind_n = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    points = rng.standard_normal((len(kind_n), p))
    points[:, 0] += np.array(means)[kind_n]
    return points.astype(np.float32), kind_n


def one_hot(category_n: np.ndarray, k: int) -> np.ndarray:
    return np.eye(k, dtype=np.float32)[category_n]


# The mixture


@pytest.mark.parametrize("shrinkage", [np.inf, 500.0, 0.0])
def test_the_likelihood_and_the_posterior_are_those_of_student_t_distributions(shrinkage):
    points_np, kind_n = groups([0, 3, 9], [40, 60, 80])
    mixture = fit_mixture(points_np, one_hot(kind_n, 3), shrinkage)
    scale_kpp = np.linalg.inv(mixture.whiten_kpp) @ np.linalg.inv(mixture.whiten_kpp).transpose(0, 2, 1)
    scale_kpp = np.broadcast_to(scale_kpp, (3, 2, 2)).astype(np.float64)
    joint_nk = np.stack(
        [
            np.exp(mixture.log_weight_k[k])
            * multivariate_t(mixture.mean_kp[k], scale_kpp[k], DEGREES_OF_FREEDOM).pdf(points_np)
            for k in range(3)
        ],
        axis=1,
    )
    assert mixture.log_likelihood == pytest.approx(np.log(joint_nk.sum(axis=1)).mean(), abs=1e-4)
    np.testing.assert_allclose(mixture.q_nk, joint_nk / joint_nk.sum(axis=1, keepdims=True), atol=1e-4)
    np.testing.assert_allclose(mixture.posterior(points_np), mixture.q_nk, atol=1e-6)


@pytest.mark.parametrize("shrinkage", [np.inf, 500.0, 50.0])
def test_every_iteration_increases_the_likelihood_of_a_common_covariance(shrinkage):
    """Finite shrinkage penalises the covariance, so that the likelihood itself may decrease a little."""
    points_np, _ = groups([0, 2, 4], [50, 50, 50], seed=1)
    start_nk = np.random.default_rng(0).dirichlet(np.ones(3), size=150).astype(np.float32)
    likelihoods = [fit_mixture(points_np, start_nk, shrinkage, n).log_likelihood for n in range(1, 12)]
    assert (np.diff(likelihoods) > (-1e-5 if np.isinf(shrinkage) else -1e-2)).all()


def test_components_have_covariances_of_their_own_unless_all_share_one():
    rng = np.random.default_rng(0)
    wide, narrow = rng.standard_normal((400, 2)) * [3, 0.3], rng.standard_normal((400, 2)) * [0.3, 3] + [20, 0]
    points_np = np.concatenate([wide, narrow]).astype(np.float32)
    start_nk = one_hot(np.repeat([0, 1], 400), 2)
    own, common = fit_mixture(points_np, start_nk, 10.0), fit_mixture(points_np, start_nk, np.inf)
    scales = np.linalg.inv(own.whiten_kpp @ own.whiten_kpp.transpose(0, 2, 1))
    spread = np.sqrt(np.diagonal(scales, axis1=1, axis2=2))
    assert spread[0, 0] > 5 * spread[1, 0] and spread[1, 1] > 5 * spread[0, 1]
    assert common.whiten_kpp.shape == (1, 2, 2)


def test_outliers_move_a_mean_little():
    points_np, kind_n = groups([0, 10], [100, 100])
    with_outliers = np.concatenate([points_np, np.full((5, 2), 60.0, np.float32)])
    kinds = np.concatenate([kind_n, np.ones(5, np.int64)])
    mixture = fit_mixture(with_outliers, one_hot(kinds, 2), 100.0)
    assert np.abs(mixture.mean_kp - fit_mixture(points_np, one_hot(kind_n, 2), 100.0).mean_kp).max() < 0.5


def test_empty_and_single_components_are_legal():
    points_np, _ = groups([0], [30])
    for start_nk in (np.ones((30, 1), np.float32), one_hot(np.zeros(30, np.int64), 4)):
        mixture = fit_mixture(points_np, start_nk, 100.0)
        moved = split_and_merge(points_np, mixture, 100.0)
        assert np.isfinite(moved.q_nk).all() and np.isfinite(moved.log_likelihood)


# Moves


@pytest.mark.parametrize("shrinkage", [np.inf, 100.0])
def test_moves_find_the_groups_where_a_component_divides_one_and_another_holds_two(shrinkage):
    points_np, kind_n = groups([0, 8, 16, 60, 70], [80, 80, 80, 80, 80])
    wrong_n = np.select([kind_n <= 1, kind_n == 2, kind_n == 3], [0, 1, 2], default=3)
    wrong_n[(kind_n == 4) & (points_np[:, 1] > 0)] = 4
    stuck = fit_mixture(points_np, one_hot(wrong_n, 5), shrinkage)
    assert adjusted_rand_score(kind_n, stuck.q_nk.argmax(axis=1)) < 0.9
    moved = split_and_merge(points_np, stuck, shrinkage)
    assert moved.log_likelihood > stuck.log_likelihood
    assert adjusted_rand_score(kind_n, moved.q_nk.argmax(axis=1)) > 0.98


# Halves of cells


@pytest.mark.parametrize("as_sparse", [False, True])
def test_pairs_of_shares_divide_the_molecules_of_every_cell(as_sparse):
    rng = np.random.default_rng(0)
    counts_ng = rng.poisson(4.0, (300, 40)).astype(np.float32)
    factor_n1 = (100.0 / (counts_ng.sum(axis=1) + 50))[:, None]  # there are other genes, which are not used
    log_ng = np.log1p(counts_ng * factor_n1)
    form = sp.csr_matrix if as_sparse else np.asarray
    shares = [
        np.expm1(share.toarray() if as_sparse else share) / (2 * factor_n1)
        for share in halves_of_cells(form(log_ng), form(counts_ng), 3, seed=1)
    ]
    assert len(shares) == 3
    np.testing.assert_allclose(shares[0] + shares[1], counts_ng, atol=1e-3)
    for share in shares:
        np.testing.assert_allclose(share, np.rint(share), atol=1e-3)
        assert share.sum() / counts_ng.sum() == pytest.approx(0.5, abs=0.02)
    # Halves of Poisson counts are independent, and so are halves of different pairs given the counts only.
    assert abs(np.corrcoef(shares[0].ravel(), shares[1].ravel())[0, 1]) < 0.03
    assert np.corrcoef(shares[0].ravel(), shares[2].ravel())[0, 1] > 0.3


def test_without_counts_the_shares_of_a_pair_are_of_different_genes():
    log_ng = np.arange(21, dtype=np.float32)[None] + np.zeros((5, 1), np.float32)
    first, second = halves_of_cells(log_ng, None, 2, seed=0)
    assert sorted([*first[0], *second[0]]) == list(range(21))


@pytest.mark.parametrize("genes", [1, 2, 3])
def test_a_share_in_which_no_cells_differ_has_no_components(genes):
    share_ng = np.full((20, genes), 0.1, np.float32)
    for form in (np.asarray, sp.csr_matrix):
        assert not scaled_components(form(share_ng), np.zeros((share_ng.shape[0], 0)), seed=0).any()


# Votes


def test_shares_have_the_numbers_of_the_whole_cells():
    rng, kind_n = np.random.default_rng(0), np.repeat(np.arange(4), 60)
    signal = np.eye(4)[kind_n] @ rng.standard_normal((4, 10)) * 4
    views = [(signal + rng.standard_normal((240, 10))).astype(np.float32) for _ in range(3)]
    found = mixture_categories(views, 4, "kmeans", seed=0)
    assert found.votes_nm.shape == (240, 3) and found.points_np.shape == (240, 10)
    for vote_n in found.votes_nm.T:
        assert (vote_n == found.votes_nm[:, 0]).mean() > 0.95
        assert adjusted_rand_score(kind_n, vote_n) > 0.9


def test_the_mean_covariance_of_a_category_is_the_identity_where_neighbours_are_found():
    points_np, kind_n = groups([0, 40], [400, 400], p=3)
    points_np[:, 1] *= 5
    found = mixture_categories([points_np], 2, "kmeans", seed=0)
    within = np.mean([np.cov(found.points_np[kind_n == k].T) for k in (0, 1)], axis=0)
    np.testing.assert_allclose(within, np.eye(3) * within[0, 0], atol=0.2)


@pytest.mark.parametrize("start", ["kmeans", "random"])
def test_a_single_arm_has_one_vote(start):
    points_np, kind_n = groups([0, 12, 24], [60, 60, 60], p=5)
    found = mixture_categories([points_np], 3, start, seed=0)
    assert found.votes_nm.shape == (180, 1)
    assert adjusted_rand_score(kind_n, found.votes_nm[:, 0]) > 0.98


def test_cells_beyond_those_that_are_fitted_are_assigned():
    points_np, kind_n = groups([0, 12], [4000, 3000], p=3)
    assert adjusted_rand_score(kind_n, mixture_categories([points_np], 2, "kmeans", 0).votes_nm[:, 0]) > 0.99


@pytest.mark.parametrize("n_cells", [3, 5])
def test_as_few_cells_as_categories(n_cells):
    points_np = np.random.default_rng(0).standard_normal((n_cells, 2)).astype(np.float32)
    found = mixture_categories([points_np, points_np], 3, "kmeans", 0)
    assert found.votes_nm.shape == (n_cells, 2) and found.votes_nm.max() < 3 and np.isfinite(found.points_np).all()


def test_equal_cells_are_legal():
    points_np = np.repeat(np.eye(3, 4, dtype=np.float32), 20, axis=0)
    found = mixture_categories([points_np, points_np], 5, "kmeans", 0)
    assert np.isfinite(found.points_np).all()
    assert adjusted_rand_score(np.repeat([0, 1, 2], 20), found.votes_nm[:, 0]) > 0.5


# In a run


@pytest.mark.parametrize("n_arms", [1, 2, 3])
def test_arms_learn_the_categories_of_the_cell_and_of_their_share(n_arms):
    config = config_of(**MIXTURES, model={"n_arms": n_arms})
    data = data_of(config).training
    assert data.tables.guess.shape == (len(data.tables.guess), 1 if n_arms == 1 else 1 + n_arms)
    assert (data.tables.guess[data.val_idx] == -1).all()
    kinds = planted().obs["type"].to_numpy()
    for vote_n in data.tables.guess[data.train_idx].T:
        assert adjusted_rand_score(kinds[data.train_idx], vote_n) > 0.95


@pytest.mark.slow
def test_arms_packed_and_as_actors_learn_the_same(ray_cluster):
    config = config_of(**MIXTURES)
    data = data_of(config)
    packed, actors = (snapshots_of(run(config, data, *workers)) for workers in (((0, 1),), ((0,), (1,))))
    assert packed.keys() == actors.keys()
    for step in packed:
        for part in packed[step]:
            for name, tensor in packed[step][part].items():
                if name.startswith("network/"):
                    np.testing.assert_allclose(tensor, actors[step][part][name], rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_categories_and_held_out_cells_have_no_say():
    config, adata = config_of(**MIXTURES), planted()
    one = build_dataset(source_from_anndata(adata), config).training
    adata.X[one.val_idx] = np.random.default_rng(9).poisson(30.0, adata.X[one.val_idx].shape)
    other = build_dataset(source_from_anndata(adata), config).training
    np.testing.assert_array_equal(one.tables.guess, other.tables.guess)
    np.testing.assert_array_equal(one.tables.neighbors, other.tables.neighbors)


def test_many_categories_are_found_by_the_ensemble_and_nothing_is_clustered_in_vain():
    def clustered_by(n_categories: int, **sections) -> str | None:
        return config_of(**sections, model={"n_categories": n_categories}).clustered_by

    auto = {"alignment": {"align_steps": 4, "align_guess": 1.0, "initial_clustering": "auto"}}
    assert [clustered_by(k, **auto) for k in (1, 50, 51, 115)] == ["mixtures", "mixtures", "ensemble", "ensemble"]
    assert clustered_by(3, alignment={"initial_clustering": "mixtures"}) is None
    assert clustered_by(3, copies={"neighbour_space": "clustering"}) == "ensemble"
