"""Genes that have other names than those of the model: what is matched, and what remedy is offered."""

import anndata
import numpy as np
import pandas as pd
import pytest
from refusals import naming, saved

from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config import Input
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.gene_names import match_genes, version_note
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.utils.errors import InputError

SYMBOLS = ["ACTB", "GAPDH", "MT-CO1", "CD3E", "HLA-A", "RP11-34P13.7"]
PLAIN = [f"ENSG{i:011d}" for i in range(6)]
VERSIONED = [f"{name}.{i + 1}" for i, name in enumerate(PLAIN)]
OTHER_VERSIONS = [f"{name}.{i + 7}" for i, name in enumerate(PLAIN)]


def cells(names) -> anndata.AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (24, len(names))).astype(np.float32)
    obs = pd.DataFrame(index=[f"cell_{i}" for i in range(24)])
    return anndata.AnnData(counts, obs, pd.DataFrame(index=list(names)))


def refusal(adata: anndata.AnnData, wanted) -> str:
    with pytest.raises(InputError) as refused:
        columns_of(adata.var_names, tuple(wanted), "x.h5ad", adata)
    return str(refused.value)


def applied(adata: anndata.AnnData, line: str) -> anndata.AnnData:
    """The object after the line of Python that ends a message."""
    scope = {"adata": adata.copy()}
    exec(line.split("of them: ")[1].removesuffix("."), scope)
    return scope["adata"]


@pytest.mark.parametrize("own", [VERSIONED, OTHER_VERSIONS, PLAIN])
@pytest.mark.parametrize("wanted", [VERSIONED, PLAIN])
def test_versions_are_ignored_where_names_differ_in_nothing_else(own, wanted):
    reverse = wanted[::-1]
    at, ignored = match_genes(pd.Index(own), reverse)
    np.testing.assert_array_equal(at, [5, 4, 3, 2, 1, 0])
    assert ignored == (own != wanted)
    note = version_note(pd.Index(own), reverse, "x.h5ad")
    assert (note is None) == (own == wanted)
    assert note is None or (own[5] in note and wanted[5] in note and "x.h5ad" in note)


def test_names_that_differ_in_their_versions_alone_are_ambiguous():
    twice = [*VERSIONED, OTHER_VERSIONS[0]]
    assert not match_genes(pd.Index(twice), PLAIN)[1]
    assert "lacks 6 of the 6" in refusal(cells(twice), PLAIN)


def test_numbers_after_the_dot_of_other_names_are_no_versions():
    assert match_genes(pd.Index(["RP11-34P13.8", "WASH7P"]), ["RP11-34P13.7", "WASH7P"])[0].tolist() == [-1, 1]


@pytest.mark.parametrize("change", [str.lower, str.capitalize, lambda name: f"GRCh38_{name}"])
def test_a_line_of_python_mends_case_and_prefix(change):
    wanted = SYMBOLS[:5]
    adata = cells([change(name) for name in wanted])
    mended = applied(adata, refusal(adata, wanted))
    np.testing.assert_array_equal(columns_of(mended.var_names, tuple(wanted), ""), range(5))


def test_names_in_another_column_are_found():
    adata = cells(SYMBOLS)
    adata.var["n_cells"] = np.arange(6)
    adata.var["gene_ids"] = pd.Categorical(VERSIONED)
    line = refusal(adata, PLAIN)
    assert "var['gene_ids']" in line
    mended = applied(adata, line)
    np.testing.assert_array_equal(columns_of(mended.var_names, tuple(PLAIN), ""), range(6))


def test_genes_that_only_raw_has_are_found_there():
    adata = cells(SYMBOLS)
    adata.raw = adata
    few = adata[:, :3].copy()
    line = refusal(few, SYMBOLS)
    assert "lacks 3 of the 6" in line
    assert list(applied(few, line).var_names) == SYMBOLS


def test_an_object_of_genes_by_cells_is_told_to_be_turned():
    adata = cells(SYMBOLS).T
    assert "adata = adata.T" in refusal(adata, SYMBOLS)


def test_no_remedy_is_made_up():
    assert "give cells with the same gene names" in refusal(cells(SYMBOLS), ["Snap25", "Slc17a7"])
    assert "give cells with the same gene names" in refusal(cells(SYMBOLS[:3]), SYMBOLS)


def test_a_list_of_genes_is_matched_alike(tmp_path):
    path = tmp_path / "genes.txt"
    path.write_text("\n".join(PLAIN[:2]))
    fitted = fit_preparation(source_from_anndata(cells(VERSIONED)), Input(genes=str(path)))
    assert fitted.preparation.var_names == tuple(VERSIONED[:2])
    path.write_text("\n".join(name.lower() for name in SYMBOLS))
    with pytest.raises(InputError, match=naming(path, "adata.var_names.str.lower()")):
        fit_preparation(source_from_anndata(cells(SYMBOLS)), Input(genes=str(path)))


def test_predict_says_what_it_ignored(tmp_path, capsys):
    trained, new = saved(cells(VERSIONED), tmp_path / "old.h5ad"), saved(cells(PLAIN), tmp_path / "new.h5ad")
    small = "--n-categories 2 --max-steps 2 --engine local --hidden 8 --batch-size 8 --copies none --threads 1"
    train(["--data", str(trained), "--out", str(tmp_path / "run"), *small.split()])
    capsys.readouterr()
    predict(["--run", str(tmp_path / "run"), "--data", str(new), "--out", str(tmp_path / "out.h5ad")])
    assert f"'{PLAIN[0]}'" in capsys.readouterr().out
    assert "cplmix_category" in anndata.read_h5ad(tmp_path / "out.h5ad").obs
