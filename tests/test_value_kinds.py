"""What the values of a matrix are, what is done with them, and which matrix and genes of an object are used."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from expression_kinds import KINDS, counts_of, log1p_10k, share, stored, z_scores
from refusals import naming

from cplmix_ray import CplMixVAE
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config import load_preset
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.matrix import statistics as statistics_module
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.preprocessing.value_kinds import recognise_values
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.utils.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")
COUNTS, TYPES = counts_of()
N, G = COUNTS.shape
BY_NAME = {name: (kind, make) for kind, makes in KINDS.items() for name, make in makes.items()}
LINEAR = ("counts", "linear_expression", "proportions")


def cells(values, raw=None, layers=None, **var) -> anndata.AnnData:
    obs = pd.DataFrame({"cell_type": [f"t{t}" for t in TYPES]}, index=[f"c{i}" for i in range(N)])
    genes = pd.DataFrame(var, index=[f"g{i}" for i in range(G)])
    adata = anndata.AnnData(values, obs=obs, var=genes.iloc[: values.shape[1]].copy(), layers=layers)
    if raw is not None:
        adata.raw = anndata.AnnData(raw, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(raw.shape[1])]))
    return adata


def scaled(n_genes: int = G) -> np.ndarray:
    return z_scores(log1p_10k(COUNTS), 10.0)[:, :n_genes].astype(np.float32)


def settings(**tree):
    return parse_config({"copies": {"copies": ["none"]}, **tree})


def built(adata: anndata.AnnData, layer: str | None = None, config=None):
    return build_dataset(source_from_anndata(adata, layer), config or settings())


def dense(values) -> np.ndarray:
    return values.toarray() if sp.issparse(values) else np.asarray(values)


def recognised(x_ng: np.ndarray) -> str:
    return recognise_values(InMemoryMatrix(stored(x_ng)).statistics).kind


# What values are


@pytest.mark.parametrize("name", BY_NAME)
def test_each_kind_is_recognised_at_several_depths(name):
    kind, make = BY_NAME[name]
    for n, g, depth in ((150, 60, 150), (40, 60, 400), (300, 800, 300), (200, 600, 20_000), (600, 300, 60)):
        counts, _ = counts_of(n, g, depth)
        assert recognised(make(counts[counts.sum(axis=1) > 0])) == kind, (n, g, depth)


@pytest.mark.parametrize("name", [name for name, (kind, _) in BY_NAME.items() if kind in (*LINEAR, "log_expression")])
def test_a_few_cells_are_enough_for_what_each_cell_shows(name):
    kind, make = BY_NAME[name]
    counts, _ = counts_of(5, 1000, 2000)
    assert recognised(make(counts)) == kind


@pytest.mark.parametrize("name", ["counts", "10k", "proportions", "log1p 10k", "log2 CPM", "z clipped", "Pearson"])
def test_a_file_on_disk_shows_the_same(tmp_path, monkeypatch, name):
    monkeypatch.setattr(statistics_module, "BLOCK_BYTES", 20_000)  # several blocks
    kind, make = BY_NAME[name]
    cells(stored(make(COUNTS))).write_h5ad(tmp_path / "cells.h5ad")
    here, there = (
        recognise_values(read_source(str(tmp_path / "cells.h5ad"), backed=backed).matrix.statistics)
        for backed in ("no", "yes")
    )
    assert here == there
    assert here.kind == kind


def test_one_gene_one_cell_and_no_molecules_are_no_trouble():
    assert recognised(COUNTS[:, :1]) == "counts"
    assert recognised(log1p_10k(COUNTS)[:, :1]) == "log_expression"
    assert recognised(COUNTS[:1]) == "counts"
    assert recognised(np.zeros((4, 3))) == "counts"
    assert recognised(share(COUNTS, 1e4)[:1]) == "linear_expression"
    assert recognised(np.full((6, 4), -1.0)) == "log_expression"


# What is done with them


@pytest.mark.parametrize("name", ["proportions", "10k", "percentages"])
def test_what_is_in_proportion_to_counts_is_prepared_as_counts_are(name):
    """Cells that sum to 1 (proportions) were taken for log-expression without a message; they are scaled and logged."""
    expected = built(cells(stored(COUNTS))).training.matrix.block()
    data = built(cells(stored(BY_NAME[name][1](COUNTS))))
    np.testing.assert_allclose(dense(data.training.matrix.block()), dense(expected), rtol=1e-4)
    (note,) = data.notes
    assert "sum to" in note and "log1p" in note


@pytest.mark.parametrize("name", [name for name, (kind, _) in BY_NAME.items() if kind not in LINEAR])
def test_all_else_is_taken_as_it_is_and_named(name):
    values = stored(BY_NAME[name][1](COUNTS))
    data = built(cells(values))
    np.testing.assert_array_equal(dense(data.training.matrix.block()), dense(values))
    assert data.training.preparation.target_sum is None
    assert "taken as" in data.notes[0]


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_of_scaled_values_the_matrix_that_is_better_is_named(tmp_path, backed):
    for adata, option in (
        (cells(scaled(40), raw=stored(log1p_10k(COUNTS))), "--layer 'raw'"),
        (cells(scaled(), layers={"odd": scaled(), "molecules": stored(COUNTS)}), "--layer 'molecules'"),
    ):
        adata.write_h5ad(tmp_path / "cells.h5ad")
        data = build_dataset(read_source(str(tmp_path / "cells.h5ad"), backed=backed), settings())
        assert "scaled values" in data.notes[0]
        assert option in data.notes[0]
        assert data.training.matrix.shape[1] == adata.n_vars


def test_counts_are_named_where_a_likelihood_needs_them():
    adata = cells(stored(log1p_10k(COUNTS)), layers={"molecules": stored(COUNTS)})
    with pytest.raises(InputError, match=naming("nb", "whole", "--layer 'molecules'")):
        built(adata, config=settings(model={"likelihood": "nb"}))
    with pytest.raises(InputError, match=naming("negative", "--layer 'molecules'", "--normalise none")):
        built(cells(scaled(), layers=dict(adata.layers)), config=settings(input={"normalise": "log1p"}))


def test_a_damaged_matrix_that_nobody_asked_for_is_passed_over():
    spoiled = scaled()
    spoiled[3, 3] = np.nan
    adata = cells(scaled(), layers={"spoiled": spoiled, "words": np.full((N, G), "x", dtype=object)})
    assert "--layer" not in built(adata).notes[0]


def test_other_bases_give_the_ensemble_the_same_expression():
    from cplmix_ray.data.neighbors.initial_clustering import _linear
    from cplmix_ray.data.preprocessing.fit import fit_preparation

    linear = []
    for log in (np.log, np.log2, np.log10):
        source = source_from_anndata(cells(stored(log(1 + share(COUNTS, 1e4)))))
        fitted = fit_preparation(source, settings().input)
        every = np.arange(N), np.arange(G)
        linear.append(dense(_linear(fitted, source, fitted.log_matrix.block(), every[1], every[0])))
    np.testing.assert_allclose(linear[1], linear[0], rtol=1e-3)
    np.testing.assert_allclose(linear[2], linear[0], rtol=1e-3)


# New cells


def trained(adata: anndata.AnnData, layer: str | None = None) -> CplMixVAE:
    CplMixVAE.setup_anndata(adata, layer=layer)
    model = CplMixVAE(adata, n_categories=3, n_arms=1, hidden=(8,), copies=("none",), engine="local", threads=1)
    model.train(max_steps=2)
    return model


@pytest.mark.parametrize(
    ("name", "other"),
    [("counts", "log1p 10k"), ("log1p 10k", "counts"), ("log1p 10k", "10k"), ("log1p 10k", "log2 CPM"), ("z", "10k")],
)
def test_new_cells_of_another_kind_are_refused(name, other):
    model = trained(cells(stored(BY_NAME[name][1](COUNTS))))
    with pytest.raises(InputError, match=naming("trained on")):
        model.get_assignments(cells(stored(BY_NAME[other][1](COUNTS))))


@pytest.mark.parametrize(
    ("name", "other"),
    [("counts", "proportions"), ("10k", "counts"), ("log1p 10k", "log1p TPM"), ("z", "regressed out")],
)
def test_new_cells_of_the_same_kind_are_taken(name, other):
    model = trained(cells(stored(BY_NAME[name][1](COUNTS))))
    assert len(model.get_assignments(cells(stored(BY_NAME[other][1](COUNTS))))) == N
    few = cells(stored(BY_NAME[name][1](COUNTS)))[:2, ::-1].copy()
    assert len(model.get_assignments(few)) == 2


# raw


@pytest.mark.parametrize("backed", ["no", "yes"])
@pytest.mark.parametrize("kind", [sp.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_raw_is_read_with_its_own_genes(tmp_path, backed, kind):
    counts = stored(COUNTS, sparse=True).toarray()
    cells(scaled(40), raw=kind(counts)).write_h5ad(tmp_path / "cells.h5ad")
    source = read_source(str(tmp_path / "cells.h5ad"), "raw", backed=backed)
    np.testing.assert_array_equal(dense(source.matrix.rows(np.arange(N))), counts)
    assert list(source.var_names) == [f"g{i}" for i in range(G)]
    assert source.adata.n_vars == 40
    plain = built(cells(counts)).training
    training = build_dataset(source, settings()).training
    assert training.preparation == plain.preparation
    np.testing.assert_array_equal(dense(training.matrix.rows(np.arange(N))), dense(plain.matrix.rows(np.arange(N))))


def test_raw_as_early_versions_wrote_it_is_read_too(tmp_path):
    path = tmp_path / "cells.h5ad"
    cells(scaled(40), raw=stored(COUNTS, sparse=True)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file.move("raw/X", "raw.X")
        file.move("raw/var", "raw.var")
        del file["raw"]
    for backed in ("no", "yes"):
        assert read_source(str(path), "raw", backed=backed).matrix.shape == (N, G)


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_a_layer_of_the_name_raw_comes_before_raw(tmp_path, backed):
    adata = cells(scaled(), raw=stored(COUNTS)[:, :50], layers={"raw": stored(log1p_10k(COUNTS))})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    source = read_source(str(tmp_path / "cells.h5ad"), "raw", backed=backed)
    np.testing.assert_array_equal(dense(source.matrix.rows(np.arange(N))), dense(adata.layers["raw"]))


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_a_layer_that_is_not_there_lists_those_that_are_and_raw(tmp_path, backed):
    path = tmp_path / "cells.h5ad"
    cells(scaled(), raw=stored(COUNTS), layers={"spliced": stored(COUNTS)}).write_h5ad(path)
    with pytest.raises(InputError, match=naming("'unspliced'", " spliced", " raw", " X")):
        read_source(str(path), "unspliced", backed=backed)
    cells(scaled()).write_h5ad(path)
    with pytest.raises(InputError, match=naming("'raw'", " X")):
        read_source(str(path), "raw", backed=backed)


def test_in_python_a_model_of_raw_reads_the_raw_of_other_cells():
    adata = cells(scaled(40), raw=stored(COUNTS))
    model = trained(adata, "raw")
    assert len(model._require_trained().preparations["main"].var_names) == G
    other = cells(scaled(20), raw=stored(COUNTS))
    np.testing.assert_array_equal(model.get_probabilities(other), model.get_probabilities())
    with pytest.raises(InputError, match=naming("'raw'")):
        model.get_probabilities(cells(scaled()))


def test_raw_of_a_backed_object_is_read_in_python_too(tmp_path):
    path = tmp_path / "cells.h5ad"
    cells(scaled(40), raw=stored(COUNTS, sparse=True)).write_h5ad(path)
    adata = anndata.read_h5ad(path, backed="r")
    try:
        source = source_from_anndata(adata, "raw")
        np.testing.assert_array_equal(dense(source.matrix.block()), stored(COUNTS, sparse=True).toarray())
        assert "--layer 'raw'" in built(adata).notes[0]
    finally:
        adata.file.close()


def test_the_commands_read_raw_keep_the_object_and_use_raw_of_new_cells(tmp_path):
    adata = cells(scaled(40), raw=stored(COUNTS))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    data = ["--data", str(tmp_path / "cells.h5ad")]
    small = ["--n-categories", "3", "--max-steps", "2", "--engine", "local", "--hidden", "8", "--copies", "none"]
    run = ["--run", str(tmp_path / "run")]
    train([*data, "--layer", "raw", *small, "--out", str(tmp_path / "run")])
    result = anndata.read_h5ad(tmp_path / "run" / "result.h5ad")
    np.testing.assert_array_equal(result.X, adata.X)
    assert result.raw.shape == (N, G)
    for backed in ("no", "yes"):
        predict([*run, *data, "--backed", backed, "--out", str(tmp_path / "new.h5ad")])
        new = anndata.read_h5ad(tmp_path / "new.h5ad")
        np.testing.assert_allclose(new.obsm["cplmix_probs"], result.obsm["cplmix_probs"], rtol=1e-5)
    evaluate([*run, *data, "--labels-key", "cell_type", "--out", str(tmp_path / "scores.json")])
    with pytest.raises(InputError, match=naming("lacks 20 of the 60 genes")):
        predict([*run, *data, "--layer", "X", "--out", str(tmp_path / "new.h5ad")])


# Marked genes

MARKED = np.arange(G) % 3 == 0


def genes_of(data) -> list[int]:
    return [int(name[1:]) for name in data.training.preparation.var_names]


@pytest.mark.parametrize(
    "column",
    [
        MARKED,
        MARKED.astype(int),
        MARKED.astype(float),
        pd.Categorical(np.where(MARKED, "True", "False")),
        pd.array(np.where(MARKED, True, None), dtype="boolean"),
        np.where(MARKED, 1.0, np.nan),
    ],
    ids=["booleans", "0 and 1", "0.0 and 1.0", "words", "missing", "NaN"],
)
@pytest.mark.parametrize("hvg", [None, "auto"])
def test_marked_genes_are_used_and_named(column, hvg):
    data = built(cells(stored(COUNTS), highly_variable=column), config=settings(input={"hvg": hvg}))
    assert genes_of(data) == list(np.flatnonzero(MARKED))
    assert any("var['highly_variable']" in note and " 20 genes" in note for note in data.notes)


@pytest.mark.parametrize(
    ("var", "said"),
    [
        ({"highly_variable": np.zeros(G, bool)}, True),
        ({"highly_variable": np.ones(G, bool)}, False),
        ({"highly_variable": np.arange(G)}, True),
        ({"highly_variable": [f"word {i}" for i in range(G)]}, True),
        ({"highly_variable": np.arange(G) == 7}, True),
        ({"highly_variable_nbatches": np.arange(G) % 3}, False),
    ],
    ids=["none", "all", "ranks", "words", "one gene", "another column"],
)
def test_marks_that_choose_nothing_are_not_used(var, said):
    data = built(cells(stored(COUNTS), **var))
    assert genes_of(data) == list(range(G))
    assert any("highly_variable" in note for note in data.notes) == said


def test_marked_genes_give_way_to_options(tmp_path):
    adata = cells(stored(COUNTS), highly_variable=MARKED)
    listed = tmp_path / "genes.txt"
    listed.write_text("g1\ng2\n")
    assert genes_of(built(adata, config=settings(input={"hvg": "all"}))) == list(range(G))
    for hvg in (None, "auto"):
        given = settings(input={"hvg": hvg, "genes": str(listed)})
        assert genes_of(built(adata, config=given)) == [1, 2]
    pytest.importorskip("scanpy")
    assert len(genes_of(built(adata, config=settings(input={"hvg": 7})))) == 7


def test_auto_keeps_the_most_variable_genes_where_none_are_marked(monkeypatch):
    pytest.importorskip("scanpy")
    monkeypatch.setattr("cplmix_ray.data.preprocessing.gene_selection.AUTO", 12)
    plain = genes_of(built(cells(stored(COUNTS)), config=settings(input={"hvg": 12})))
    assert load_preset("cells").input.hvg == "auto"
    auto = settings(input={"hvg": "auto"})
    assert genes_of(built(cells(stored(COUNTS)), config=auto)) == plain
    assert genes_of(built(cells(scaled()), config=auto)) == list(range(G))


def test_scaled_genes_cannot_be_ranked():
    with pytest.raises(InputError, match=naming("--hvg", "scaled", "--layer")):
        built(cells(scaled()), config=settings(input={"hvg": 12}))


def test_residuals_are_ranked_by_their_variance():
    values = BY_NAME["Pearson"][1](COUNTS)
    chosen = genes_of(built(cells(stored(values)), config=settings(input={"hvg": 12})))
    assert set(chosen) == set(np.argsort(-values.var(axis=0))[:12])


def test_genes_of_raw_are_marked_in_raw_or_else_in_var():
    adata = cells(scaled(40), raw=stored(COUNTS), highly_variable=np.ones(G, bool))
    assert genes_of(built(adata, "raw")) == list(range(40))
    adata.raw.var["highly_variable"] = MARKED
    assert genes_of(built(adata, "raw")) == list(np.flatnonzero(MARKED))
