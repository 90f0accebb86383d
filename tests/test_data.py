"""From files to what the arms see: matrices, normalisation, genes, the split, neighbours, images."""

import dataclasses
import json
import pickle
import re
from itertools import pairwise

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from refusals import naming

import cplmix_ray.data.neighbors.nearest as neighbours_module
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.io import cell_format
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.neighbors.nearest import nearest
from cplmix_ray.data.neighbors.principal_components import principal_components
from cplmix_ray.data.preprocessing.preparation import Preparation, prepare_block
from cplmix_ray.data.splits import split_cells
from cplmix_ray.data.training_set import Modality, TrainingSet
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.cplmixvae.dataset import ArmTables, augmentations_for
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.models.resolve import resolve_settings
from cplmix_ray.utils.errors import InputError

N_TYPES, MARKERS = 3, 4


def planted(n_per_type: int = 40, n_genes: int = 60, seed: int = 0) -> anndata.AnnData:
    """Sparse counts; gene ``i`` below N_TYPES * MARKERS is expressed in type ``i // MARKERS`` alone."""
    rng = np.random.default_rng(seed)
    type_n = np.repeat(np.arange(N_TYPES), n_per_type)
    # The other genes are as strong in the mean, some weaker and some stronger, but alike in all types.
    rate_ng = np.tile(np.exp(rng.uniform(np.log(0.3), np.log(12.0), n_genes)), (len(type_n), 1))
    rate_ng[:, : N_TYPES * MARKERS] = 0.05
    for t in range(N_TYPES):
        rate_ng[np.ix_(type_n == t, np.arange(t * MARKERS, (t + 1) * MARKERS))] = 12.0
    depth_n = rng.uniform(0.6, 1.6, len(type_n))
    counts = rng.poisson(rate_ng * depth_n[:, None]).astype(np.float32)
    obs = pd.DataFrame({"type": [f"secret_{t}" for t in type_n]}, index=[f"cell_{i}" for i in range(len(type_n))])
    return anndata.AnnData(
        sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"gene_{i}" for i in range(n_genes)])
    )


def settings(**tree) -> CplMixVAEConfig:
    tree = {"model": {"n_categories": N_TYPES}, **tree}
    tree["model"] = {"n_categories": N_TYPES, **tree["model"]}
    return parse_config(tree)


def build(adata: anndata.AnnData, config: CplMixVAEConfig | None = None, layer: str | None = None):
    return build_dataset(source_from_anndata(adata, layer), config or settings())


def dense(values) -> np.ndarray:
    return values.toarray() if sp.issparse(values) else np.asarray(values)


def log_normalised(counts_ng: np.ndarray, target: float = 1e4) -> np.ndarray:
    """The closed form, in float64."""
    counts_ng = np.asarray(counts_ng, np.float64)
    library_n = counts_ng.sum(1)
    return np.log1p(counts_ng * (target / np.where(library_n > 0, library_n, 1.0))[:, None])


NORMALISE = {"normalise": "log1p"}
NO_COPIES = {"copies": ["none"]}


# Reading


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray], ids=lambda f: f.__name__)
def test_a_file_is_read_as_it_was_written(tmp_path, make):
    adata = planted()
    counts = adata.X.toarray()
    adata.X = make(counts)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    source = read_source(str(tmp_path / "cells.h5ad"))
    assert sp.issparse(source.matrix.block()) == sp.issparse(adata.X)
    np.testing.assert_array_equal(dense(source.matrix.block()), counts)
    assert (source.labels_n, source.image_shape, source.held_out_n) == (None, None, None)


def test_a_named_layer_is_read_in_place_of_x():
    adata = planted()
    adata.layers["twice"] = adata.X * 2
    np.testing.assert_array_equal(dense(source_from_anndata(adata, "twice").matrix.block()), 2 * dense(adata.X))
    adata.X = None
    with pytest.raises(InputError, match=naming(" X", "--layer")):
        source_from_anndata(adata)
    np.testing.assert_array_equal(dense(source_from_anndata(adata, "twice").matrix.block()), dense(planted().X) * 2)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["a", "b", None], ["a", "b", ""]),
        (pd.Categorical(["a", None, "b"], categories=["b", "a", "unused"]), ["a", "", "b"]),
        ([3, 1, 2], ["3", "1", "2"]),
        ([True, False, True], ["True", "False", "True"]),
    ],
    ids=["strings", "categories", "numbers", "switches"],
)
def test_labels_are_strings_and_the_missing_ones_are_empty(column, expected):
    adata = planted(1)
    adata.obs["label"] = column
    labels_n = source_from_anndata(adata, labels_key="label").labels_n
    assert labels_n.tolist() == expected
    assert labels_n.dtype.kind == "U"


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "cells.txt").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"cells\.txt is of no known format.*\.h5ad.*\.csv.*\.npz.*'digits'"):
        read_source(str(tmp_path / "cells.txt"))


def test_a_format_of_ones_own_is_read_by_its_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(cell_format, "_FORMATS", dict(cell_format._FORMATS))
    counts = np.arange(60.0).reshape(12, 5)

    def read_text(data: str, options: cell_format.ReadOptions):
        adata = anndata.AnnData(np.loadtxt(data))
        return source_from_anndata(adata, options.layer, options.labels_key, data, options.state_key)

    cell_format.register_cell_format(cell_format.CellFormat("numbers", (".numbers",), read_text))
    path = tmp_path / "cells.numbers"
    np.savetxt(path, counts)
    assert (dense(read_source(str(path)).matrix.block()) == counts).all()
    assert read_source(str(path), subset=4).n_cells == 4
    (tmp_path / "cells.txt").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"\.numbers \(numbers\)"):
        read_source(str(tmp_path / "cells.txt"))


# Sparse stays sparse


@pytest.mark.parametrize("likelihood", ["gaussian", "nb", "zinb"])
@pytest.mark.parametrize("hvg", [None, 20])
def test_sparse_stays_sparse(monkeypatch, likelihood, hvg):
    if hvg:
        pytest.importorskip("scanpy")
    config = settings(model={"likelihood": likelihood}, input={"hvg": hvg})
    adata = planted()

    def fill_in(*_args, **_kwargs):
        raise AssertionError("a sparse matrix was filled in")

    # scanpy, where it chooses genes, may do as it likes.
    if hvg is None:
        for kind in (sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array, sp.coo_array):
            for name in ("toarray", "todense"):
                monkeypatch.setattr(kind, name, fill_in)
    values = build(adata, config).training.matrix.block()
    assert sp.issparse(values)
    assert values.format == "csr"
    assert values.dtype == np.float32
    assert values.shape == (adata.n_obs, hvg or adata.n_vars)


def test_dense_rows_are_filled_in_at_last():
    values = planted().X
    rows = np.array([5, 0, 5])
    for matrix in (values, values.toarray()):
        taken = InMemoryMatrix(matrix).dense_rows(rows)
        assert isinstance(taken, np.ndarray)
        assert taken.flags.c_contiguous
        np.testing.assert_array_equal(taken, values.toarray()[rows])


def test_building_a_data_set_leaves_the_users_object_alone():
    adata = planted()
    before = adata.copy()
    build(adata)
    build(adata, settings(model={"likelihood": "nb"}))
    np.testing.assert_array_equal(dense(adata.X), dense(before.X))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert not adata.layers
    assert not adata.uns


# Normalisation


@pytest.mark.parametrize("make", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_normalisation_has_its_closed_form(make):
    """Library sizes 4, 8 and none, scaled to 6; an empty cell stays empty."""
    counts = np.array([[1, 1, 2], [4, 0, 4], [0, 0, 0]], np.float32)
    adata = anndata.AnnData(make(counts))
    data = build(adata, settings(input={"val_fraction": 0, "target_sum": 6.0}, copies=NO_COPIES))
    expected = np.log1p(np.array([[1.5, 1.5, 3.0], [3.0, 0.0, 3.0], [0.0, 0.0, 0.0]]))
    assert data.training.preparation.target_sum == 6.0
    np.testing.assert_allclose(dense(data.training.matrix.block()), expected, rtol=1e-6)


MEDIAN = {"input": {"target_sum": "median"}, "copies": NO_COPIES}


@pytest.mark.parametrize("make", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
@pytest.mark.parametrize("unit", [1.0, 7.3], ids=["counts", "linear"])
def test_the_median_library_is_that_of_cells_that_have_one_over_all_genes(make, unit):
    """The empty cells would halve it and the genes that are not chosen hold most of it; the note says the number."""
    counts = dense(planted().X)
    counts[:50] = 0
    adata = anndata.AnnData(make((counts * unit).astype(np.float32)), var=planted().var)
    config = settings(**{**MEDIAN, "input": {**MEDIAN["input"], "hvg": 12}})
    data = build(adata, config)
    preparation = data.training.preparation
    assert preparation.target_sum == pytest.approx(np.median(counts[50:].sum(1)) * unit, rel=1e-6)
    at = adata.var_names.get_indexer(preparation.var_names)
    expected = log_normalised(counts * unit, preparation.target_sum)[:, at]
    np.testing.assert_allclose(dense(data.training.matrix.block()), expected, rtol=1e-5, atol=1e-6)
    assert f"{preparation.target_sum:g}, the median" in data.notes[0]
    assert resolve_settings(config, data.training).input.target_sum == preparation.target_sum


def test_the_median_is_settled_for_count_likelihoods_and_has_no_effect_on_logs():
    adata = planted()
    library = float(np.median(dense(adata.X).sum(1)))
    counts = settings(**{**MEDIAN, "model": {"likelihood": "nb"}})
    assert resolve_settings(counts, build(adata, counts).training).input.target_sum == library
    adata.X = sp.csr_matrix(log_normalised(adata.X.toarray()).astype(np.float32))
    at_median, fixed = (build(adata, settings(**tree)) for tree in (MEDIAN, {"copies": NO_COPIES}))
    assert at_median.training.preparation == fixed.training.preparation
    assert at_median.notes == fixed.notes
    np.testing.assert_array_equal(dense(at_median.training.matrix.block()), dense(adata.X))


def test_a_median_to_which_no_cell_can_be_scaled_is_refused():
    with pytest.raises(InputError, match=naming("median", "--target-sum")):
        build(
            anndata.AnnData(np.full((40, 5), 9e11)), settings(**{**MEDIAN, "input": {**MEDIAN["input"], **NORMALISE}})
        )


def test_the_median_of_proportions_is_refused():
    """Scaled to a total of 1, all values are near zero, and everything was one category."""
    counts = dense(planted().X)
    with pytest.raises(InputError, match=naming("proportions", "--target-sum")):
        build(anndata.AnnData((counts / counts.sum(1, keepdims=True)).astype(np.float32)), settings(**MEDIAN))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32, np.uint8])
def test_the_number_type_makes_no_difference_to_normalisation(dtype):
    adata = planted()
    counts = dense(adata.X)
    for matrix in (sp.csr_matrix(counts.astype(dtype)), counts.astype(dtype)):
        data = build(anndata.AnnData(matrix, obs=adata.obs, var=adata.var), settings(copies=NO_COPIES))
        assert data.training.matrix.dtype == np.float32
        np.testing.assert_allclose(dense(data.training.matrix.block()), log_normalised(counts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["gaussian", "nb"])
def test_dense_equals_sparse(likelihood):
    adata, filled = planted(), planted()
    filled.X = filled.X.toarray()
    config = settings(model={"likelihood": likelihood})
    one, other = build(adata, config).training, build(filled, config).training
    assert one.preparation == other.preparation
    np.testing.assert_allclose(dense(one.matrix.block()), other.matrix.block(), rtol=1e-6)
    # Nearness is a matter of principal components that two solvers compute: ties may fall either way.
    pairs = zip(one.tables.neighbors[one.train_idx], other.tables.neighbors[one.train_idx], strict=True)
    assert np.mean([len(set(a) & set(b)) / len(a) for a, b in pairs]) > 0.99


def test_cells_that_hold_less_than_one_are_scaled_like_the_others():
    """Fractions of a total are no counts, and normalising them is scaling them too."""
    fractions = np.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.9]], np.float32)
    data = build(anndata.AnnData(fractions), settings(input={**NORMALISE, "val_fraction": 0}, copies=NO_COPIES))
    np.testing.assert_allclose(data.training.matrix.block(), log_normalised(fractions), rtol=1e-5)


def test_auto_normalises_counts_and_says_so():
    adata = planted()
    data = build(adata)
    assert data.training.preparation.kind == "log"
    np.testing.assert_allclose(
        dense(data.training.matrix.block()), log_normalised(dense(adata.X)), rtol=1e-5, atol=1e-6
    )
    (note,) = data.notes
    assert "raw counts" in note
    assert "log1p" in note
    assert f"{data.training.preparation.target_sum:g}" in note


def test_auto_leaves_logs_alone_and_says_so():
    adata = planted()
    adata.X = sp.csr_matrix(log_normalised(adata.X.toarray()).astype(np.float32))
    data = build(adata)
    assert (data.training.preparation.kind, data.training.preparation.target_sum) == ("log", None)
    np.testing.assert_array_equal(dense(data.training.matrix.block()), dense(adata.X))
    (note,) = data.notes
    assert "log-expression" in note
    assert "as it is" in note


def test_none_leaves_counts_alone_and_says_that_this_is_unusual():
    adata = planted()
    data = build(adata, settings(input={"normalise": "none"}, copies=NO_COPIES))
    np.testing.assert_array_equal(dense(data.training.matrix.block()), dense(adata.X))
    assert "look like raw counts" in " ".join(data.notes)


def test_values_too_large_for_logarithms_are_pointed_out():
    adata = planted()
    adata.X = adata.X * 100.5
    as_they_are = build(adata, settings(input={"normalise": "none"}, copies=NO_COPIES))
    assert "--normalise log1p" in " ".join(as_they_are.notes)
    assert "log1p" in " ".join(build(adata, settings(copies=NO_COPIES)).notes)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_count_likelihoods_get_the_counts_and_the_usual_library(likelihood):
    adata = planted()
    data = build(adata, settings(model={"likelihood": likelihood}))
    assert data.training.preparation.kind == "counts"
    np.testing.assert_array_equal(dense(data.training.matrix.block()), dense(adata.X))
    assert data.training.preparation.library == np.median(dense(adata.X).sum(1))


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"model": {"likelihood": "nb"}, "input": NORMALISE}, "nb.*--normalise log1p"),
        ({"model": {"likelihood": "bernoulli"}}, "--likelihood bernoulli.*nb"),
        ({"copies": {"copies": ["affine"]}}, "--copies affine.*log-expression"),
        ({"copies": {"copies": ["thinning"]}}, "--copies thinning.*log-expression"),
        (
            {"model": {"likelihood": "nb"}, "copies": {"copies": ["gene_dropout"]}},
            "--copies gene_dropout.*counts",
        ),
        ({"model": {"n_categories": 121}}, "120 cells.*--n-categories 121"),
    ],
)
def test_settings_that_do_not_fit_cells_are_refused(tree, words):
    with pytest.raises(InputError, match=words):
        build(planted(), settings(**tree))


def test_negative_values_cannot_be_normalised_but_may_be_given_as_they_are():
    adata = planted()
    adata.X = adata.X.toarray() - 1.0
    with pytest.raises(InputError, match=r"negative.*--normalise none"):
        build(adata, settings(input=NORMALISE))
    np.testing.assert_array_equal(build(adata).training.matrix.block(), adata.X)


# Genes


@pytest.mark.parametrize("values", ["counts", "log"])
def test_the_planted_variable_genes_are_kept(values):
    pytest.importorskip("scanpy")
    adata = planted(n_genes=300)
    if values == "log":
        counts = adata.X.toarray()
        adata.X = sp.csr_matrix(log_normalised(counts, np.median(counts.sum(1))).astype(np.float32))
    chosen = build(adata, settings(input={"hvg": N_TYPES * MARKERS}, copies=NO_COPIES)).training.preparation.var_names
    assert chosen == tuple(f"gene_{i}" for i in range(N_TYPES * MARKERS))


@pytest.mark.parametrize("likelihood", ["gaussian", "nb"])
def test_the_library_is_that_of_all_genes_even_when_some_are_chosen(likelihood):
    pytest.importorskip("scanpy")
    adata = planted()
    every = build(adata, settings(model={"likelihood": likelihood})).training
    some = build(adata, settings(model={"likelihood": likelihood}, input={"hvg": 15})).training
    at = adata.var_names.get_indexer(some.preparation.var_names)
    assert len(at) == 15
    assert some.preparation.target_sum == every.preparation.target_sum
    assert some.preparation.library == every.preparation.library
    np.testing.assert_array_equal(dense(some.matrix.block()), dense(every.matrix.block())[:, at])
    # The genes that were left out still tell which cells are alike.
    np.testing.assert_array_equal(some.tables.neighbors, every.tables.neighbors)


@pytest.mark.parametrize("hvg", [None, 15])
@pytest.mark.parametrize("likelihood", ["gaussian", "nb"])
def test_new_cells_are_prepared_as_the_training_cells_were(likelihood, hvg):
    """A few cells, their genes in another order and among others: no median, no choice is made anew."""
    if hvg:
        pytest.importorskip("scanpy")
    adata = planted()
    config = settings(model={"likelihood": likelihood}, input={"hvg": hvg})
    training = build(adata, config).training
    order = np.random.default_rng(1).permutation(adata.n_vars)
    cells = np.array([3, 77, 50])
    model = TrainedModel(config, training.preparations, None, 0)
    again = model.prepare(source_from_anndata(adata[cells][:, order].copy()))
    np.testing.assert_allclose(dense(again.matrix.block()), dense(training.matrix.block())[cells], rtol=1e-6)


def test_as_many_variable_genes_as_there_are_is_all_of_them():
    adata = planted()
    assert build(adata, settings(input={"hvg": 1000}, copies=NO_COPIES)).training.preparation.var_names == tuple(
        adata.var_names
    )


def test_genes_that_no_cell_expresses_are_not_chosen():
    pytest.importorskip("scanpy")
    adata = planted()
    counts = adata.X.toarray()
    counts[:, 20:30] = 0
    adata.X = sp.csr_matrix(counts)
    chosen = build(adata, settings(input={"hvg": 40}, copies=NO_COPIES)).training.preparation.var_names
    assert len(chosen) == 40
    assert not {f"gene_{i}" for i in range(20, 30)} & set(chosen)


# The split


@pytest.mark.parametrize("n", [1, 2, 3, 10, 997])
@pytest.mark.parametrize("val_fraction", [0.0, 0.1, 0.5, 0.999])
def test_a_split_is_disjoint_and_complete_and_leaves_cells_to_train_on(n, val_fraction):
    train, val = split_cells(n, val_fraction, seed=4)
    assert np.array_equal(np.sort(np.concatenate([train, val])), np.arange(n))
    assert len(val) == min(n - 1, round(n * val_fraction))
    assert all(a < b for part in (train, val) for a, b in pairwise(part))


def test_a_split_depends_on_the_seed_alone():
    one, again, other = (split_cells(500, 0.2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one[1], again[1])
    assert not np.array_equal(one[1], other[1])


def test_a_random_split_is_spread_over_the_file():
    """Cells are often sorted by type."""
    _, val = split_cells(10_000, 0.1, seed=0)
    by_quarter = np.histogram(val, bins=4, range=(0, 10_000))[0]
    assert np.all(np.abs(by_quarter - 250) < 5 * np.sqrt(250))


def test_the_files_own_test_set_is_held_out():
    held_out = np.array([False, True, False, True, True])
    for seed in (0, 1):
        train, val = split_cells(5, 0.1, seed, held_out)
        assert (train.tolist(), val.tolist()) == ([0, 2], [1, 3, 4])


# Neighbours


def brute_force(points: np.ndarray, k: int) -> np.ndarray:
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(squared, np.inf)
    return np.argsort(squared, axis=1)[:, :k]


def test_neighbours_are_exact():
    points = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    expected = np.sort(brute_force(points.astype(np.float64), 7), axis=1)
    np.testing.assert_array_equal(np.sort(nearest(points, 7), axis=1), expected)


@pytest.mark.parametrize("search", ["exact", "approximate"])
@pytest.mark.parametrize("points", ["apart", "twins", "all alike"])
def test_a_cell_is_never_its_own_neighbour(monkeypatch, search, points):
    if search == "approximate":
        monkeypatch.setattr(neighbours_module, "EXACT_UP_TO", 10)
    drawn = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    if points == "twins":
        drawn[100:] = drawn[:100]
    elif points == "all alike":
        drawn[:] = 1.0
    near = nearest(drawn, 6)
    assert near.shape == (200, 6)
    assert near.min() >= 0
    assert near.max() < 200
    assert not (near == np.arange(200)[:, None]).any()
    assert all(len(set(row)) == 6 for row in near)


@pytest.mark.parametrize(("n", "columns"), [(5, 4), (2, 1), (1, 1)])
def test_a_few_cells_have_the_neighbours_that_there_are(n, columns):
    near = nearest(np.arange(n, dtype=np.float32)[:, None], 10)
    assert near.shape == (n, columns)
    assert set(near.ravel()) <= set(range(n))


def test_the_approximate_search_finds_what_the_exact_one_finds(monkeypatch):
    points = np.random.default_rng(0).normal(size=(2000, 20)).astype(np.float32)
    exact = nearest(points, 10)
    monkeypatch.setattr(neighbours_module, "EXACT_UP_TO", 100)
    found, again = nearest(points, 10), nearest(points, 10)
    assert found.shape == exact.shape
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall > 0.95
    np.testing.assert_array_equal(found, again)


def test_components_of_sparse_and_dense_values_span_the_same_distances():
    """Signs and solvers differ; distances do not. They are also those of the centred values where none is left out."""
    values = log_normalised(planted().X.toarray())[:30, :20]
    one = principal_components(sp.csr_matrix(values), 19, seed=0)
    other = principal_components(values, 19, seed=0)

    def distances(points):
        return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))

    np.testing.assert_allclose(distances(one), distances(other), atol=1e-4)
    # 19 of 20: what is missing is the least variable direction.
    every = distances(values)
    assert np.all(distances(other) <= every + 1e-4)
    assert np.mean(distances(other)) > 0.97 * np.mean(every)


def test_a_few_components_keep_types_together_and_apart():
    adata = planted()
    adata.obs["number"] = np.repeat(np.arange(N_TYPES), 40)
    near = nearest(principal_components(adata.X, 2, seed=0), 5)
    types = adata.obs["number"].to_numpy()
    assert np.mean(types[near] == types[:, None]) > 0.98


@pytest.mark.parametrize("likelihood", ["gaussian", "nb"])
def test_only_training_cells_are_neighbours(likelihood):
    training = build(planted(), settings(model={"likelihood": likelihood}, input={"val_fraction": 0.3})).training
    table = training.tables.neighbors
    assert table.shape == (120, 10)
    assert set(table[training.train_idx].ravel()) <= set(training.train_idx)
    assert not (table[training.train_idx] == training.train_idx[:, None]).any()
    # Rows of validation cells lead nowhere but to themselves.
    assert (table[training.val_idx] == training.val_idx[:, None]).all()


def test_neighbours_are_near_in_normalised_expression_whatever_the_likelihood():
    adata = planted()
    one, other = (build(adata, settings(model={"likelihood": name})).training for name in ("gaussian", "nb"))
    np.testing.assert_array_equal(one.tables.neighbors, other.tables.neighbors)
    types = adata.obs["type"].to_numpy()
    near = types[one.tables.neighbors[one.train_idx]]
    assert np.mean(near == types[one.train_idx][:, None]) > 0.98


def test_no_neighbours_are_sought_where_copies_need_none():
    assert build(planted(), settings(copies={"copies": ["gene_dropout"]})).training.tables.neighbors is None


@pytest.mark.parametrize(
    ("kinds", "kind", "resolved"),
    [
        (["auto"], "images", ("neighbours", "affine")),
        (["auto"], "counts", ("neighbours", "thinning")),
        (["auto"], "log", ("neighbours", "gene_dropout")),
        (["none"], "log", ()),
        (["affine", "neighbours"], "images", ("affine", "neighbours")),
    ],
)
def test_copies_suit_the_data(kinds, kind, resolved):
    matrix = InMemoryMatrix(np.zeros((3, 1), np.float32))
    config = parse_config({"copies": {"copies": kinds}})
    assert augmentations_for(config, Preparation(kind, ("g",)), matrix) == resolved


# Images


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 5, 5), dtype=np.uint8)


def save(path, **arrays) -> str:
    np.savez(path, **arrays)
    return str(path)


@pytest.mark.parametrize("flat", [False, True], ids=["square", "flat"])
def test_images_are_pixels_between_0_and_1(tmp_path, flat):
    x, y = images(30), np.arange(30) % 3
    path = save(tmp_path / "images.npz", x=x.reshape(30, 25) if flat else x, y=y)
    source = read_source(path)
    assert source.image_shape == (5, 5)
    assert source.held_out_n is None
    assert source.labels_n.tolist() == [str(label) for label in y]
    training = build_dataset(source, settings()).training
    assert (training.preparation.kind, training.preparation.image_shape) == ("images", (5, 5))
    np.testing.assert_allclose(training.matrix.block(), x.reshape(30, 25) / x.max(), rtol=1e-6)
    assert training.matrix.dtype == np.float32


def test_images_need_not_be_square(tmp_path):
    source = read_source(save(tmp_path / "wide.npz", x=np.ones((4, 3, 7))))
    assert (source.image_shape, source.matrix.shape) == ((3, 7), (4, 21))


def test_a_test_set_is_held_out_and_the_rest_trains(tmp_path):
    path = save(
        tmp_path / "both.npz",
        x_train=images(20),
        y_train=np.arange(20) % 2,
        x_test=images(8, 1),
        y_test=np.full(8, 7),
    )
    source = read_source(path, labels_key="label")
    data = build_dataset(source, settings())
    assert data.training.train_idx.tolist() == list(range(20))
    assert data.training.val_idx.tolist() == list(range(20, 28))
    assert data.labels_n[20:].tolist() == ["7"] * 8
    np.testing.assert_array_equal(source.matrix.block()[20:], images(8, 1).reshape(8, 25))


def test_a_test_set_alone_is_no_test_set(tmp_path):
    source = read_source(save(tmp_path / "test.npz", x_test=images(20)))
    assert source.held_out_n is None
    assert len(build_dataset(source, settings()).training.train_idx) == 18


def test_images_without_labels_have_none(tmp_path):
    half = save(tmp_path / "half.npz", x_train=images(5), y_train=np.zeros(5), x_test=images(3))
    assert read_source(half).labels_n is None
    assert read_source(save(tmp_path / "none.npz", x=images(5))).labels_n is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.array([{"a": 1}] * 9, dtype=object)}, ["[Oo]bject"]),
        ({"x": images(9), "y": np.array([None] * 9, dtype=object)}, ["[Oo]bject"]),
        ({"pictures": images(9)}, [r"\bx\b", "x_train", "x_test"]),
        ({"x": images(9), "y": np.zeros(8)}, [r"\bx\b", r"\(8,\)", r"\(9,\)"]),
        ({"x_train": images(9), "x_test": np.zeros((4, 6, 6))}, ["size"]),
        ({"x": np.zeros((9, 24))}, ["square", "height, width"]),
        ({"x": np.zeros((9, 5, 5, 3))}, ["height, width"]),
        ({"x": np.float64(3)}, ["height, width"]),
        ({"x": np.full((9, 5, 5), "a")}, ["<U1"]),
        ({"x": images(9) - 200.0}, ["-200", r"\b0\b"]),
        ({"x": np.zeros((9, 5, 5))}, [r"\b0\b"]),
        ({"x": np.full((9, 5, 5), np.nan)}, ["NaN"]),
        ({"x": np.zeros((0, 5, 5))}, [r"\(0, 5, 5\)"]),
        ({"x": np.zeros((0, 25))}, [r"\(0, 25\)"]),
        ({"x": np.zeros((9, 0))}, [r"\(9, 0\)"]),
    ],
    ids=[
        "pickled images",
        "pickled labels",
        "other names",
        "too few labels",
        "two sizes",
        "not square",
        "colours",
        "a number",
        "letters",
        "negative",
        "black",
        "NaN",
        "no images",
        "no flat images",
        "no pixels",
    ],
)
def test_arrays_that_are_no_images_are_refused(tmp_path, arrays, words):
    path = save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=r"bad\.npz") as caught:
        build_dataset(read_source(path), settings())
    assert all(re.search(word, str(caught.value)) for word in words), caught.value


def test_a_single_array_named_as_an_archive_is_refused(tmp_path):
    with open(tmp_path / "single.npz", "wb") as file:
        np.save(file, images(9))
    with pytest.raises(InputError, match=r"single\.npz"):
        read_source(str(tmp_path / "single.npz"))


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"model": {"likelihood": "nb"}}, "nb is for counts; images take bernoulli.* gaussian"),
        ({"input": {"hvg": 10}}, "--hvg chooses genes"),
        ({"copies": {"copies": ["gene_dropout"]}}, "--copies gene_dropout does not fit images"),
    ],
)
def test_settings_that_do_not_fit_images_are_refused(tmp_path, tree, words):
    source = read_source(save(tmp_path / "images.npz", x=images(9)))
    with pytest.raises(InputError, match=words):
        build_dataset(source, settings(**tree))


def test_images_have_neither_layers_nor_columns():
    with pytest.raises(InputError, match=r"'counts'.*--layer"):
        read_source("digits", layer="counts")
    with pytest.raises(InputError, match="'cell_type'"):
        read_source("digits", labels_key="cell_type")


def test_the_digits_are_there_without_a_download():
    source = read_source("digits", labels_key="label")
    assert (source.matrix.shape, source.image_shape) == ((1797, 64), (8, 8))
    assert sorted(set(source.labels_n)) == [str(digit) for digit in range(10)]
    values = build_dataset(source, settings(copies=NO_COPIES)).training.matrix.block()
    assert (values.min(), values.max(), values.dtype) == (0.0, 1.0, np.float32)


# What workers see


def test_a_training_set_carries_no_labels():
    """What an arm is given is pickled on its way; no label may be in it, nor the object that holds them."""
    source = source_from_anndata(planted(), labels_key="type")
    assert set(source.labels_n) == {"secret_0", "secret_1", "secret_2"}
    training = build_dataset(source, settings()).training
    fields = {field.name for field in dataclasses.fields(TrainingSet)}
    assert fields == {"modalities", "covariates", "train_idx", "val_idx", "tables"}
    assert {field.name for field in dataclasses.fields(Modality)} == {"matrix", "preparation", "present_n"}
    assert {field.name for field in dataclasses.fields(ArmTables)} == {
        "neighbors",
        "guess",
        "n_categories",
        "neighbor_index",
        "augmenter",
    }
    assert b"secret" not in pickle.dumps(training)


def test_labels_make_no_difference_to_a_training_set():
    adata = planted()
    one = build_dataset(source_from_anndata(adata, labels_key="type"), settings()).training
    other = build_dataset(source_from_anndata(adata), settings()).training
    assert pickle.dumps(one) == pickle.dumps(other)


@pytest.mark.parametrize(
    "preparation",
    [
        Preparation("log", ("a", "b"), target_sum=1234.5),
        Preparation("counts", ("a",), library=17.25),
        Preparation("images", ("p0", "p1", "p2", "p3"), scale=16.0, image_shape=(2, 2)),
    ],
    ids=lambda p: p.kind,
)
def test_a_preparation_survives_json(preparation):
    again = Preparation.from_dict(json.loads(json.dumps(preparation.as_dict())))
    assert again == preparation
    assert hash(again) == hash(preparation)


def test_a_preparation_does_not_alter_what_it_is_given():
    for matrix in (planted().X, planted().X.toarray()):
        before = matrix.copy()
        prepare_block(matrix, Preparation("log", (), target_sum=10.0))
        np.testing.assert_array_equal(dense(matrix), dense(before))
