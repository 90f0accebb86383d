"""The fingerprint of a run changes with what changes the result, and names the part that differs."""

import json
from dataclasses import replace

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cplmix_ray.config import load_preset
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.matrix.content_hash import ContentHash
from cplmix_ray.runs.fingerprint import differences, fingerprint, fingerprint_in

CONFIG = load_preset("cells")


def cells(change=lambda adata: None) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(rng.poisson(0.5, (30, 12)).astype(np.float32))
    adata.obs["batch"] = [f"b{i % 2}" for i in range(30)]
    change(adata)
    return adata


def found(adata: anndata.AnnData, config=CONFIG) -> dict:
    return fingerprint(source_from_anndata(adata), config)


def test_how_values_are_stored_does_not_matter(tmp_path):
    values = cells().X
    files = {"dense": values, "sparse": sp.csr_matrix(values), "integers": values.astype(np.int64)}
    for name, each in files.items():
        anndata.AnnData(each, obs=cells().obs, var=cells().var).write_h5ad(tmp_path / f"{name}.h5ad")
    sources = [read_source(str(tmp_path / f"{name}.h5ad"), backed=how) for name in files for how in ("yes", "no")]
    sources.append(source_from_anndata(anndata.AnnData(sp.csc_matrix(values), obs=cells().obs, var=cells().var)))
    prints = [fingerprint(source, CONFIG) for source in sources]
    assert all(each == prints[0] == found(cells()) for each in prints)


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix])
def test_the_hash_does_not_depend_on_blocks_and_stored_zeros(kind):
    values = cells().X
    whole, parts = ContentHash(), ContentHash()
    whole.add(values)
    for start in (0, 7, 8):
        parts.add(kind(values[start : {0: 7, 7: 8, 8: 30}[start]]))
    assert whole.hexdigest() == parts.hexdigest()
    zeros = sp.csr_matrix(values)
    zeros = sp.csr_matrix((np.append(zeros.data, 0), np.append(zeros.indices, 11), [*zeros.indptr[:-1], zeros.nnz + 1]))
    stored = ContentHash()
    stored.add(zeros)
    assert stored.hexdigest() == whole.hexdigest()


def one_value(adata: anndata.AnnData) -> None:
    adata.X[29, 11] += 1


def two_columns(adata: anndata.AnnData) -> None:
    adata.X = adata.X[:, [1, 0, *range(2, 12)]]


def cell_names(adata: anndata.AnnData) -> None:
    adata.obs_names = [f"other {name}" for name in adata.obs_names]


def gene_names(adata: anndata.AnnData) -> None:
    adata.var_names = [*adata.var_names[:-1], "another"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (one_value, "data (values)"),
        (two_columns, "data (values)"),
        (cell_names, "data (names of cells)"),
        (gene_names, "data (names of genes)"),
    ],
)
def test_the_part_of_the_data_that_differs_is_named(change, named):
    assert differences(found(cells()), found(cells(change))) == [named]


def test_the_order_of_the_cells_matters():
    adata = cells()
    (part,) = differences(found(adata), found(adata[::-1].copy()))
    assert part == "data (values, names of cells)"


def test_covariates_count_only_if_the_model_receives_them():
    def other(adata: anndata.AnnData) -> None:
        adata.obs["batch"] = "b0"

    assert differences(found(cells()), found(cells(other))) == []
    config = CONFIG.with_settings(input={"batch_key": "batch"})
    assert differences(found(cells(), config), found(cells(other), config)) == ["data (covariates)"]


def test_settings_versions_and_seed_are_named():
    first = found(cells())
    (part,) = differences(first, found(cells(), CONFIG.with_settings(training={"max_steps": 7})))
    assert part.startswith("settings (training.max_steps ") and part.endswith(", 7)")
    assert differences(first, found(cells(), CONFIG.model_copy(update={"seed": 3}))) == ["seed (0, 3)"]
    older = {**first, "versions": {**first["versions"], "torch": "1.0"}}
    assert differences(older, first) == [f"versions (torch 1.0, {first['versions']['torch']})"]


def test_what_does_not_change_the_result_does_not_count():
    config = CONFIG.with_settings(
        placement={"engine": "local"}, training={"log_every": 3}, input={"data": "elsewhere.h5ad", "labels_key": "type"}
    )
    assert found(cells(), config) == found(cells())


def test_it_is_read_from_a_result_and_a_damaged_one_is_none(tmp_path):
    adata = cells()
    adata.uns["cplmix_ray"] = {"fingerprint": found(adata)}
    adata.write_h5ad(tmp_path / "result.h5ad")
    uns = anndata.read_h5ad(tmp_path / "result.h5ad").uns
    assert fingerprint_in(uns) == found(cells())
    uns["cplmix_ray"]["fingerprint"]["settings"] = "{"
    assert fingerprint_in(uns) is None
    assert fingerprint_in({}) is None


def test_images_that_are_made_on_demand_have_one():
    first, other = (read_source("dsprites", subset=150, seed=seed) for seed in (0, 1))
    config = load_preset("dsprites")
    assert differences(fingerprint(first, config), fingerprint(first, config)) == []
    renamed = replace(other, adata=first.adata)
    assert differences(fingerprint(first, config), fingerprint(renamed, config)) == ["data (values)"]
    json.dumps(fingerprint(first, config))
