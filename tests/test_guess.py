"""What an ensemble of partitions says of cells: the first guess, neighbours, views, the data sets of a search."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import adjusted_rand_score
from test_stages import GUESS, assert_bitwise, config_of, planted, run, snapshots_of

from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.neighbors import initial_clustering as partitions
from cplmix_ray.data.neighbors.initial_clustering import views_of
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.cplmixvae.training_step import _guess_loss
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.utils.errors import InputError

NEAR = {"copies": {"neighbour_space": "clustering"}}
MIXTURES = {**NEAR, "alignment": {"initial_clustering": "mixtures"}}


def build(adata: anndata.AnnData, config: CplMixVAEConfig, key: str | None = None) -> Dataset:
    return build_dataset(source_from_anndata(adata, labels_key=key), config)


@pytest.mark.parametrize("sections", [GUESS, NEAR, {**GUESS, **NEAR}], ids=["guess", "neighbours", "both"])
def test_a_guess_and_neighbours_are_of_training_cells_alone(sections):
    adata = planted()
    data = build(adata, config_of(**sections), "type").training
    assert len(data.val_idx) == 12
    assert (data.tables.guess[data.val_idx] == -1).all()
    assert set(data.tables.guess[data.train_idx, 0]) == {0, 1, 2}
    assert (
        adjusted_rand_score(adata.obs["type"].to_numpy()[data.train_idx], data.tables.guess[data.train_idx, 0]) == 1.0
    )
    assert np.isin(data.tables.neighbors[data.train_idx], data.train_idx).all()
    assert (data.tables.neighbors[data.train_idx] != data.train_idx[:, None]).all()
    assert (data.tables.neighbors[data.val_idx] == data.val_idx[:, None]).all()
    if "copies" in sections:
        kinds = adata.obs["type"].to_numpy()
        assert (kinds[data.tables.neighbors[data.train_idx]] == kinds[data.train_idx, None]).all()


def test_nothing_is_guessed_where_nobody_asks():
    assert build(planted(), config_of()).training.tables.guess is None


@pytest.mark.parametrize("sections", [GUESS, NEAR], ids=["guess", "neighbours"])
def test_held_out_cells_have_no_say(sections):
    config, adata = config_of(**sections), planted()
    one = build(adata, config).training
    adata.X[one.val_idx] = np.random.default_rng(9).poisson(30.0, adata.X[one.val_idx].shape)
    other = build(adata, config).training
    assert not np.array_equal(one.matrix.block(), other.matrix.block())
    np.testing.assert_array_equal(one.matrix.block()[one.train_idx], other.matrix.block()[one.train_idx])
    np.testing.assert_array_equal(one.tables.guess, other.tables.guess)
    np.testing.assert_array_equal(one.tables.neighbors, other.tables.neighbors)


@pytest.mark.slow
def test_a_guess_knows_no_labels():
    """With labels, with other labels, and without any: the same run, bit by bit."""
    config, adata, shuffled = config_of(**GUESS), planted(), planted()
    shuffled.obs["type"] = np.random.default_rng(1).permutation(shuffled.obs["type"].to_numpy())
    sets = [build(adata, config, "type"), build(shuffled, config, "type"), build(adata, config)]
    assert not np.array_equal(sets[0].labels_n, sets[1].labels_n)
    one, *others = [snapshots_of(run(config, data))[8] for data in sets]
    for other in others:
        assert_bitwise(one, other)


def test_the_surprise_is_the_mean_of_minus_log_q_of_the_guess():
    q_ank = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[1 / 3, 1 / 3, 1 / 3], [0.6, 0.2, 0.2]]])
    surprise_a = _guess_loss(q_ank.log(), torch.tensor([[[1], [2]], [[1], [2]]]))
    expected = [-(np.log(0.25) + np.log(0.8)) / 2, -(np.log(1 / 3) + np.log(0.2)) / 2]
    np.testing.assert_allclose(surprise_a.numpy(), expected, rtol=1e-6)


def test_of_two_votes_on_a_cell_each_counts_half():
    q_ank = torch.tensor([[[0.5, 0.25, 0.25]], [[0.1, 0.1, 0.8]]])
    surprise_a = _guess_loss(q_ank.log(), torch.tensor([[[0, 1]], [[2, 2]]]))
    np.testing.assert_allclose(surprise_a.numpy(), [-(np.log(0.5) + np.log(0.25)) / 2, -np.log(0.8)], rtol=1e-6)


# What cannot be


@pytest.mark.parametrize("sections", [GUESS, NEAR, MIXTURES], ids=["guess", "neighbours", "mixtures"])
def test_images_have_no_initial_clustering(sections):
    with pytest.raises(InputError, match=r"--neighbour-space clustering.*--align-guess") as caught:
        build_dataset(read_source("digits"), config_of(**{**sections, "model": {"n_categories": 10}}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--align-guess", "1"], ["alignment.align_guess", "align_steps"]),
        (["--overcluster", "2"], ["model.overcluster", "align_steps"]),
        (
            ["--align-guess", "1", "--align-steps", "5", "--overcluster", "2"],
            ["alignment.align_guess", "overcluster"],
        ),
    ],
)
def test_stages_that_cannot_be_are_one_sentence(line, words):
    from cplmix_ray.cli.train_command import parse_train

    with pytest.raises(InputError) as caught:
        parse_train(["--preset", "published", *line])
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


# Views


@pytest.fixture
def seen(monkeypatch):
    """What the views are made from."""
    given = []

    def spy(log_ng, linear_ng, design_nv, seed):
        given.append((log_ng, linear_ng))
        return views_of(log_ng, linear_ng, design_nv, seed)

    monkeypatch.setattr(partitions, "views_of", spy)
    return given


def dense(values) -> np.ndarray:
    return values.toarray() if sp.issparse(values) else np.asarray(values)


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
def test_residuals_are_of_counts_where_counts_were_read(seen, make):
    adata = planted()
    counts = adata.X.copy()
    adata.X = make(counts)
    for model in ({}, {"likelihood": "nb"}):
        data = build(adata, config_of(**GUESS, model=model)).training
        log_ng, linear_ng = seen.pop()
        np.testing.assert_array_equal(dense(linear_ng), counts[data.train_idx])
        scaled = counts / counts.sum(1, keepdims=True) * 1e4
        np.testing.assert_allclose(dense(log_ng), np.log1p(scaled)[data.train_idx], rtol=1e-4)


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
def test_residuals_are_of_what_the_logarithm_was_taken_of(seen, make):
    adata = planted()
    scaled = adata.X / adata.X.sum(1, keepdims=True) * 5000
    adata.X = make(np.log1p(scaled))
    data = build(adata, config_of(**GUESS)).training
    ((log_ng, linear_ng),) = seen
    np.testing.assert_allclose(dense(linear_ng), scaled[data.train_idx], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(dense(log_ng), dense(adata.X)[data.train_idx])


@pytest.mark.parametrize("change", [lambda x: x - 4.0, lambda x: 10.0 * x], ids=["negative", "too large"])
def test_values_that_are_no_logarithms_leave_the_residuals_out(seen, change):
    adata = planted()
    adata.X = change(np.log1p(adata.X)).astype(np.float32)
    data = build(adata, config_of(**GUESS, input={"normalise": "none"})).training
    assert seen[0][1] is None
    assert set(data.tables.guess[data.train_idx, 0]) == {0, 1, 2}


def test_views_are_of_the_genes_that_the_arms_see(seen, tmp_path):
    (tmp_path / "genes.txt").write_text("\n".join(f"g{i}" for i in (3, 8, 11, 14)))
    data = build(planted(), config_of(**GUESS, input={"genes": str(tmp_path / "genes.txt")})).training
    ((log_ng, linear_ng),) = seen
    np.testing.assert_array_equal(log_ng, data.matrix.block()[data.train_idx])
    np.testing.assert_array_equal(linear_ng, planted().X[data.train_idx][:, [3, 8, 11, 14]])


# Normalisation by itself


def rpkm() -> anndata.AnnData:
    """Expression in units of no logarithm: fractions, up to thousands."""
    adata = planted()
    adata.X = (adata.X * np.random.default_rng(2).uniform(1, 90, adata.n_vars)).astype(np.float32)
    return adata


def test_expression_that_is_no_logarithm_is_scaled_and_said_so(seen):
    data = build(rpkm(), config_of(**GUESS))
    x_ng = rpkm().X.astype(np.float64)
    expected = np.log1p(x_ng / x_ng.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(data.training.matrix.block(), expected, rtol=1e-5, atol=1e-5)
    (note,) = data.notes
    assert "log1p" in note
    np.testing.assert_array_equal(seen[0][1], rpkm().X[data.training.train_idx])


@pytest.mark.parametrize("top", [49.0, 50.0, 51.0])
def test_values_are_taken_for_logarithms_up_to_fifty(top):
    adata = planted()
    adata.X = np.log1p(adata.X) / np.log1p(adata.X).max() * np.float32(top)
    assert adata.X.max() == pytest.approx(top)
    scaled = build(adata, config_of()).training.preparation.target_sum
    assert scaled == (1e4 if top > 50 else None)


def test_new_cells_are_treated_as_the_training_cells_were():
    """Whatever their own largest value is: few cells may all be below 50."""
    config = config_of()
    data = build(rpkm(), config)
    model = TrainedModel.from_parts(config, data.training.preparations, snapshots_of(run(config, data))[8], 8)
    np.testing.assert_allclose(
        model.prepare(source_from_anndata(rpkm())).matrix.block(), data.training.matrix.block(), rtol=1e-6
    )
    low = rpkm()[:10].copy()
    low.X = low.X * np.float32(1e-3)
    assert low.X.max() < 50
    # The same cells in another unit: what is scaled to the same sum is the same.
    np.testing.assert_allclose(
        model.prepare(source_from_anndata(low)).matrix.block(), data.training.matrix.block()[:10], rtol=1e-4
    )


# The data sets of a search


@pytest.mark.slow
def test_the_dataset_cache_tells_guesses_of_different_settings_apart_and_keeps_what_only_the_driver_knows(ray_cluster):
    from dataclasses import replace

    from cplmix_ray.data.source import Factors
    from cplmix_ray.tuning.dataset_cache import dataset_cache

    adata = planted()
    states = np.random.default_rng(3).random((adata.n_obs, 2))
    factors = Factors(("shape",), np.zeros((adata.n_obs, 1), np.int64))
    source = replace(source_from_anndata(adata, labels_key="type"), truth_nm=states, factors=factors)
    configs = {
        "plain": config_of(),
        "near": config_of(**NEAR),
        "guess": config_of(**GUESS),
        "two": config_of(**NEAR, model={"n_categories": 2}),
        "two guessed": config_of(**GUESS, model={"n_categories": 2}),
        "two plain": config_of(model={"n_categories": 2}),
    }
    with dataset_cache(source, build_dataset) as cache:
        kept = {name: cache.get(config).dataset() for name, config in configs.items()}
        assert len({str(cache.get(config).stored.values) for config in configs.values()}) == 1
        for name, config in configs.items():
            built, found = build_dataset(source, config), kept[name]
            np.testing.assert_array_equal(found.truth_nm, states)
            np.testing.assert_array_equal(found.labels_n, adata.obs["type"])
            assert found.factors.names == ("shape",)
            np.testing.assert_array_equal(found.training.tables.neighbors, built.training.tables.neighbors)
            if built.training.tables.guess is None:
                assert found.training.tables.guess is None
            else:
                np.testing.assert_array_equal(found.training.tables.guess, built.training.tables.guess)
                assert found.training.tables.guess.max() == config.model.n_categories - 1
        assert cache.get(configs["two plain"]).stored == cache.get(configs["plain"]).stored, (
            "K matters to ensembles alone"
        )
