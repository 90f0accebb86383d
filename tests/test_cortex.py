"""Cells from CSV files in the layouts of the cortical data sets, through train, predict and evaluate."""

import gzip
import json
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cplmix_ray.data.io.csv_tables as tables
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.preprocessing.genes import read_gene_list
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.utils.errors import InputError

N, G = 40, 12
IDS = [f"F1S4_{i:03d}" for i in range(N)]
SYMBOLS = [f"Gene{i}" for i in range(G)]
LINE = ["--n-categories", "2", "--max-steps", "20", "--hidden", "8", "--batch-size", "16"]
LINE += ["--engine", "local", "--threads", "1", "--device", "cpu"]
ENTREZ = [str(71661 + 7 * i) for i in range(G)]


def counts(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rate = np.ones((N, G))
    rate[::2, :4], rate[1::2, 4:8] = 9, 9
    return rng.poisson(rate).astype(np.float32)


def metadata_10x() -> pd.DataFrame:
    """As of Yao et al. 2021: the order is not that of the matrix."""
    label = [f"{1 + i % 2}_Lamp5" if i % 2 else "364_DG" for i in range(N)]
    table = pd.DataFrame(
        {"sample_name": IDS, "cluster_label": label, "subclass_label": label, "region_label": "VISp", "age": range(N)}
    )
    return table.sample(frac=1, random_state=1)


@pytest.fixture
def tenx(tmp_path) -> tuple[str, str]:
    """matrix.csv, cells x genes, and metadata.csv."""
    pd.DataFrame(counts().astype(int), index=pd.Index(IDS, name="sample_name"), columns=SYMBOLS).to_csv(
        tmp_path / "matrix.csv"
    )
    metadata_10x().to_csv(tmp_path / "metadata.csv", index=False)
    return str(tmp_path / "matrix.csv"), str(tmp_path / "metadata.csv")


@pytest.fixture
def smartseq(tmp_path) -> tuple[str, str]:
    """As of Tasic et al. 2018: genes x cells by number, with nothing above the numbers, and symbols beside."""
    stem = tmp_path / "mouse_VISp_2018-06-14"
    pd.DataFrame(counts().T.astype(int), index=ENTREZ, columns=IDS).to_csv(f"{stem}_exon-matrix.csv", quoting=2)
    rows = pd.DataFrame({"gene_symbol": SYMBOLS, "gene_id": range(G), "chromosome": 1, "gene_entrez_id": ENTREZ})
    rows.to_csv(f"{stem}_genes-rows.csv", index=False)
    columns = metadata_10x().rename(columns={"cluster_label": "cluster", "subclass_label": "subclass"})
    columns.to_csv(f"{stem}_samples-columns.csv", index=False)
    return f"{stem}_exon-matrix.csv", f"{stem}_samples-columns.csv"


# Layouts


@pytest.mark.parametrize("values_at_once", [1, 30, 10**6])
@pytest.mark.parametrize("layout", ["tenx", "smartseq"])
def test_both_layouts_give_the_same_cells(request, monkeypatch, layout, values_at_once):
    monkeypatch.setattr(tables, "CHUNK_VALUES", values_at_once)
    data, metadata = request.getfixturevalue(layout)
    key = {"tenx": "cluster_label", "smartseq": "cluster"}[layout]
    source = read_source(data, labels_key=key, metadata=metadata, state_key=("age",))
    assert sp.issparse(source.matrix.block())
    assert source.matrix.block().format == "csr"
    np.testing.assert_array_equal(source.matrix.block().toarray(), counts())
    assert list(source.adata.obs_names) == IDS
    assert list(source.adata.var_names) == SYMBOLS
    expected = metadata_10x().set_index("sample_name").loc[IDS]
    assert source.labels_n.tolist() == expected["cluster_label"].tolist()
    assert source.truth_nm[:, 0].tolist() == expected["age"].tolist()
    assert any("gene_symbol" in note for note in source.notes) == (layout == "smartseq")


def test_the_whole_is_never_filled_in(tenx, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK_VALUES", 3 * G)
    largest = []
    make = sp.csr_matrix

    def noted(values, *args, **kwargs):
        if isinstance(values, np.ndarray):
            largest.append(values.size)
        return make(values, *args, **kwargs)

    monkeypatch.setattr(tables.sp, "csr_matrix", noted)
    read_source(tenx[0])
    assert max(largest) == 3 * G
    assert len(largest) == -(-N // 3)


def test_without_metadata_a_line_is_a_cell(tenx):
    source = read_source(tenx[0])
    np.testing.assert_array_equal(source.matrix.block().toarray(), counts())
    assert list(source.adata.obs_names) == IDS
    assert (source.labels_n, source.notes) == (None, ())


def test_a_compressed_file_and_one_of_r_without_a_name_above_the_rows(tmp_path, tenx):
    text = Path(tenx[0]).read_text()
    with gzip.open(tmp_path / "packed.csv.gz", "wt") as file:
        file.write(text)
    (tmp_path / "of_r.csv").write_text(text.replace("sample_name,", "", 1))
    for name in ("packed.csv.gz", "of_r.csv"):
        source = read_source(str(tmp_path / name), metadata=tenx[1])
        np.testing.assert_array_equal(source.matrix.block().toarray(), counts())
        assert list(source.adata.var_names) == SYMBOLS


def test_two_regions_stand_one_below_the_other(smartseq, tmp_path):
    data, metadata = smartseq
    alm = str(tmp_path / "mouse_ALM_2018-06-14_exon-matrix.csv")
    others = [f"A_{name}" for name in IDS]
    pd.DataFrame(counts(1).T.astype(int), index=SYMBOLS, columns=others).to_csv(alm)
    pd.DataFrame({"sample_name": others, "cluster": "L5", "extra": 1}).to_csv(tmp_path / "alm.csv", index=False)
    source = read_source(f"{data},{alm}", labels_key="cluster", metadata=f"{metadata},{tmp_path / 'alm.csv'}")
    np.testing.assert_array_equal(source.matrix.block().toarray(), np.vstack([counts(), counts(1)]))
    assert set(source.labels_n[N:]) == {"L5"}
    source.adata.write_h5ad(tmp_path / "both.h5ad")  # a column that one region lacks can be written


def test_metadata_joins_an_h5ad(tmp_path, tenx):
    adata = anndata.AnnData(
        sp.csr_matrix(counts()), obs=pd.DataFrame({"age": 0, "own": 1}, index=IDS), var=pd.DataFrame(index=SYMBOLS)
    )
    adata.write_h5ad(tmp_path / "cells.h5ad")
    source = read_source(str(tmp_path / "cells.h5ad"), labels_key="cluster_label", metadata=tenx[1])
    assert {"own", "age", "region_label"} <= set(source.adata.obs)
    assert source.adata.obs["age"].tolist() == list(range(N))
    assert any("obs" in note and "age" in note for note in source.notes)
    assert set(source.labels_n) == {"364_DG", "2_Lamp5"}


@pytest.mark.parametrize("layout", ["tenx", "smartseq"])
def test_cells_that_only_one_side_knows_are_left_out_and_told(request, layout):
    data, metadata = request.getfixturevalue(layout)
    table = pd.read_csv(metadata)
    gone = table["sample_name"].isin(IDS[:3])
    more = pd.DataFrame({"sample_name": ["nobody"], "age": [1]})
    pd.concat([table[~gone], more]).to_csv(metadata, index=False)
    source = read_source(data, metadata=metadata)
    np.testing.assert_array_equal(source.matrix.block().toarray(), counts()[3:])
    said = " ".join(source.notes)
    assert f"3 of {N} cells" in said
    assert f"1 of {N - 2} cells" in said


# Genes


def test_a_list_chooses_genes_and_libraries_stay_those_of_all(tenx, tmp_path):
    (tmp_path / "genes.csv").write_text("genes\nGene7\nNowhere\nGene2\n")
    tree = {"input": {"val_fraction": 0}, "model": {"n_categories": 2}, "copies": {"copies": ["none"]}}
    every = build_dataset(read_source(tenx[0]), parse_config(tree))
    tree["input"]["genes"] = str(tmp_path / "genes.csv")
    some = build_dataset(read_source(tenx[0]), parse_config(tree))
    assert some.training.preparation.var_names == ("Gene2", "Gene7")
    np.testing.assert_array_equal(
        some.training.matrix.block().toarray(), every.training.matrix.block().toarray()[:, [2, 7]]
    )
    assert any("1 of the 3 genes" in note and "Nowhere" in note for note in some.notes)
    (tmp_path / "genes.csv").write_text("Nowhere\n")
    with pytest.raises(InputError, match=r"genes\.csv"):
        build_dataset(read_source(tenx[0]), parse_config(tree))
    with pytest.raises(InputError, match="--genes"):
        build_dataset(read_source("digits"), parse_config(tree))


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "--genes"), ("genes\n", "--genes"), ("A\nB\nA\n", "'A'"), (None, "--genes")],
)
def test_a_list_of_genes_that_cannot_be_used(tmp_path, text, words):
    if text is not None:
        (tmp_path / "genes.txt").write_text(text)
    with pytest.raises(InputError, match=words):
        read_gene_list(str(tmp_path / "genes.txt"))


# What cannot be used is one sentence and exit status 2


def refused(capsys, monkeypatch, *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["command", *words])
    with pytest.raises(SystemExit) as left:
        run_command(train)
    said = capsys.readouterr().err
    assert left.value.code == 2, said
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    return said


def damage(text: str, what: str) -> str:
    lines = text.splitlines()
    match what:
        case "word":
            lines[5] = lines[5].rsplit(",", 1)[0] + ",high"
        case "long line":
            lines[7] += ",1,2"
        case "short line":
            lines[7] = lines[7].rsplit(",", 3)[0]
        case "cell twice":
            lines[4] = lines[3]
        case "gene twice":
            lines[0] = lines[0].replace("Gene3", "Gene2")
        case "no names":
            lines = [line.split(",", 1)[1] for line in lines]
        case "empty":
            lines = []
        case "header only":
            lines = lines[:1]
    return "\n".join(lines) + "\n" if lines else ""


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("word", ["'high'", "'F1S4_004'", "'Gene11'"]),
        ("long line", ["CSV"]),
        ("short line", ["'F1S4_006'", "'Gene9'"]),
        ("cell twice", ["'F1S4_002'"]),
        ("gene twice", ["'Gene2'"]),
        ("no names", ["cell", "column"]),
        ("empty", []),
        ("header only", []),
    ],
)
def test_a_matrix_that_cannot_be_used(tenx, tmp_path, capsys, monkeypatch, what, named):
    data, metadata = tenx
    Path(data).write_text(damage(Path(data).read_text(), what))
    out = tmp_path / "run"
    said = refused(
        capsys, monkeypatch, "--data", data, "--metadata", metadata, "--n-categories", "2", "--out", str(out)
    )
    assert all(name in said for name in [data, *named]), said
    assert not out.exists()


@pytest.mark.parametrize(
    ("alter", "words", "named"),
    [
        (lambda t: t, ["--labels-key", "cluster"], ["'cluster'", "--labels-key"]),
        (lambda t: t, ["--state-key", "weight"], ["'weight'", "--state-key"]),
        (lambda t: t, ["--state-key", "region_label"], ["'VISp'"]),
        (lambda t: t, ["--genes", "nowhere.csv"], ["nowhere.csv"]),
        (lambda t: t.drop(columns="sample_name"), [], ["'cluster_label'"]),
        (lambda t: pd.concat([t, t.iloc[:1]]), [], ["'sample_name'"]),
        (lambda t: t.assign(sample_name="x" + t["sample_name"]), [], ["metadata", "names"]),
        (lambda t: t.assign(sample_name=t["sample_name"].where(t["age"] > 3)), [], ["metadata", "name"]),
        (lambda t: t.iloc[:0], [], ["metadata"]),
    ],
    ids=["labels", "state", "no number", "genes", "no ids", "cell twice", "other ids", "nameless", "empty"],
)
def test_metadata_that_cannot_be_used(tenx, tmp_path, capsys, monkeypatch, alter, words, named):
    data, metadata = tenx
    alter(pd.read_csv(metadata)).to_csv(metadata, index=False)
    line = ["--data", data, "--metadata", metadata, "--n-categories", "2", "--out", str(tmp_path / "run"), *words]
    said = refused(capsys, monkeypatch, *line)
    assert all(name in said for name in named), said


def test_files_that_are_not_there_or_do_not_go_together(tenx, tmp_path, smartseq):
    with pytest.raises(InputError, match=r"none\.csv.*--metadata"):
        read_source(tenx[0], metadata=str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match=r"none\.csv.*--data"):
        read_source(f"{tenx[0]},{tmp_path / 'none.csv'}")
    with pytest.raises(InputError, match="--data"):
        read_source(f"{tenx[0]},{smartseq[0]}")
    with pytest.raises(InputError, match="--metadata"):
        read_source("digits", metadata=tenx[1])


# Commands


def test_train_predict_and_evaluate_take_the_same_files(tenx, tmp_path, capsys):
    data, metadata = tenx
    (tmp_path / "genes.txt").write_text("\n".join(SYMBOLS[:10]))
    run = str(tmp_path / "run")
    given = ["--data", data, "--metadata", metadata]
    scored = ["--labels-key", "cluster_label", "--state-key", "age"]
    train([*given, *scored, *LINE, "--genes", str(tmp_path / "genes.txt"), "--out", run])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    expected = {"acc", "state_rho", "state_ridge", "state_types", "state_cells"}
    assert expected <= set(metrics)
    assert metrics["state_cells"] == N
    result = anndata.read_h5ad(tmp_path / "run" / "result.h5ad")
    assert {"cluster_label", "cplmix_category"} <= set(result.obs)

    evaluate(["--run", run])
    again = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    evaluate(["--run", run, *given, *scored, "--out", str(tmp_path / "named.json")])
    named = json.loads((tmp_path / "named.json").read_text())
    for name in expected:
        assert again[name] == named[name] == pytest.approx(metrics[name], abs=1e-6)
    assert "state rho" in capsys.readouterr().out

    predict(["--run", run, *given, "--out", str(tmp_path / "out.h5ad")])
    predicted = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert predicted.obs["cplmix_category"].tolist() == result.obs["cplmix_category"].tolist()
    assert "region_label" in predicted.obs
