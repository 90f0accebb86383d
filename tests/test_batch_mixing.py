"""What users are told about batches, and cells of batches that a model does not know."""

import contextlib
import io
import json
import shutil
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import binomtest

from cplmix_ray.api import CplMixVAE
from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config.data import Input
from cplmix_ray.metrics.batch_mixing import MOST_CELLS, batch_scores, batch_table, drawn_cells, of_one_batch
from cplmix_ray.models.cplmixvae.batch_remarks import batch_remarks
from cplmix_ray.utils.errors import CplMixWarning, InputError

TYPES, CELLS, GENES = 3, 240, 40
LINE = (
    f"--n-categories {TYPES} --hidden 12 --bottleneck 6 --state-dim 2 --max-steps 40 --checkpoint-every 20 "
    f"--batch-size 60 --seed 4 --engine local --threads 1"
).split()


def cells(batches: tuple[str, ...] = ("b1", "b2"), n: int = CELLS, seed: int = 0) -> anndata.AnnData:
    """Counts of types in batches with an effect on every gene; the truth is in obs."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
    log_rate_tg = 1.5 * fixed.standard_normal((TYPES, GENES))
    effects = {batch: 0.5 * fixed.standard_normal(GENES) for batch in ("b1", "b2", "b3")}
    type_n, batch_n = np.arange(n) % TYPES, rng.choice(batches, n)
    rate_ng = np.exp(log_rate_tg[type_n] + np.stack([effects[batch] for batch in batch_n]))
    obs = pd.DataFrame(
        {"cell_type": [f"type {t}" for t in type_n], "batch": batch_n}, index=[f"cell_{i}" for i in range(n)]
    )
    var = pd.DataFrame(index=[f"gene_{i}" for i in range(GENES)])
    return anndata.AnnData(sp.csr_matrix(rng.poisson(rate_ng).astype(np.float32)), obs=obs, var=var)


def said_by(function, *words: str | Path) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        function([str(word) for word in words])
    return said.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """cells.h5ad, and a run on it with a batch key; what it printed is in said.txt."""
    folder = tmp_path_factory.mktemp("batches")
    cells().write_h5ad(folder / "cells.h5ad")
    given = ("--data", folder / "cells.h5ad", "--labels-key", "cell_type", "--batch-key", "batch")
    (folder / "said.txt").write_text(said_by(train, *given, *LINE, "--out", folder / "run"))
    return folder


def predicted(folder: Path, adata: anndata.AnnData, *words: str) -> tuple[anndata.AnnData, str]:
    adata.write_h5ad(folder / "new.h5ad")
    given = ("--run", folder / "run", "--data", folder / "new.h5ad", "--out", folder / "out.h5ad")
    said = said_by(predict, *given, *words)
    return anndata.read_h5ad(folder / "out.h5ad"), said


# The numbers


def test_the_table_counts_batches_and_compares_them_with_all_cells():
    category_n = np.array([0] * 40 + [2] * 60)
    batch_n = pd.Categorical(["a"] * 40 + ["a"] * 10 + ["b"] * 50)
    table = batch_table(category_n, batch_n)
    assert table["category"].tolist() == [0, 2] and table["cells"].tolist() == [40, 60]
    assert table["cells:a"].tolist() == [40, 10] and table["cells:b"].tolist() == [0, 50]
    assert table["largest_batch"].tolist() == ["a", "b"]
    np.testing.assert_allclose(table["largest_share"], [1, 5 / 6])
    np.testing.assert_allclose(table["share_of_all"], [0.5, 0.5])
    np.testing.assert_allclose(table["entropy"], [0, -(np.log(1 / 6) / 6 + np.log(5 / 6) * 5 / 6) / np.log(2)])
    assert table["p_value"].max() < 1e-9


def test_the_p_value_of_a_small_category_is_that_of_a_binomial():
    rng = np.random.default_rng(0)
    batch_n = pd.Categorical(rng.choice(["a", "b", "c"], 20_000, p=[0.5, 0.3, 0.2]))
    table = batch_table((np.arange(20_000) < 30).astype(int), batch_n)
    row = table.iloc[1]
    expected = binomtest(int(row["cells:a"]), 30, 0.5, alternative="greater").pvalue
    assert row["p_value"] == pytest.approx(min(1, 3 * expected), rel=0.05)


def test_only_large_categories_beyond_chance_are_of_one_batch():
    """Batch a has half of the cells; categories of 100 (80 of it), 200, 12 and 1,000 cells, all else of it."""
    sizes, ofa = {0: 100, 1: 200, 2: 12, 3: 1000, 4: 1312}, {0: 80, 1: 200, 2: 12, 3: 960, 4: 60}
    category_n = np.repeat(list(sizes), list(sizes.values()))
    batch_n = np.concatenate([np.where(np.arange(n) < ofa[k], "a", "b") for k, n in sizes.items()])
    found = of_one_batch(batch_table(category_n, pd.Categorical(batch_n)))
    assert found["category"].tolist() == [4, 3, 1]
    mostly_a = np.concatenate([np.full(9 * len(batch_n), "a"), batch_n])  # now a is more than 80 % of all cells
    found = of_one_batch(
        batch_table(np.concatenate([np.full(9 * len(batch_n), 5), category_n]), pd.Categorical(mostly_a))
    )
    assert found["category"].tolist() == [4]


@pytest.mark.parametrize(("follows", "of_state"), [(False, False), (True, False), (False, True)])
def test_scores_tell_what_knows_the_batch(follows, of_state):
    rng = np.random.default_rng(0)
    code_n, type_n = rng.integers(0, 3, 1500), rng.integers(0, 4, 1500)
    category_n = type_n * 3 + code_n if follows else type_n
    state_nd = rng.standard_normal((1500, 2)) + (3 * np.eye(3)[code_n][:, :2] if of_state else 0)
    batch_n = pd.Categorical.from_codes(code_n, ["a", "b", "c"])
    scores = batch_scores(np.eye(12)[category_n], state_nd, batch_n, 0)
    assert scores["batch_entropy"] == pytest.approx(0.0 if follows else 1.0, abs=0.02)
    assert scores["batch_auc_category"] == pytest.approx(1.0 if follows else 0.5, abs=0.06)
    if follows:
        assert "batch_auc_state" not in scores  # no category holds two batches
    else:
        assert scores["batch_auc_state"] == pytest.approx(0.95 if of_state else 0.5, abs=0.06)


def test_a_collapsed_state_and_few_cells_are_no_problem():
    batch_n = pd.Categorical(["a", "b"] * 20)
    scores = batch_scores(np.eye(2)[[0] * 20 + [1] * 20], np.zeros((40, 2)), batch_n, 0)
    assert scores["batch_auc_state"] == 0.5
    scores = batch_scores(np.eye(2)[[0, 1, 1]], np.zeros((3, 2)), pd.Categorical(["a", "b", "b"]), 0)
    assert scores == {"batch_entropy": 0.0}


def test_many_cells_are_drawn_with_the_seed():
    drawn = drawn_cells(MOST_CELLS + 5, 3)
    assert len(np.unique(drawn)) == MOST_CELLS and np.array_equal(drawn, drawn_cells(MOST_CELLS + 5, 3))
    assert drawn_cells(10, 3) == slice(None)


# The sentences


def remarks(obs: pd.DataFrame, category_n: np.ndarray, **given) -> list[str]:
    return batch_remarks(category_n, obs, Input(**given), 0)


def test_a_category_of_one_batch_is_named_with_the_key():
    category_n, batch_n = np.repeat([0, 1, 2], 100), np.repeat(["x", "y", "x"], 100)
    batch_n[100:130] = "x"
    (line,) = remarks(pd.DataFrame({"where": batch_n}), category_n, batch_key="where")
    assert "'where'" in line and "'x'" in line and "'y'" not in line and "0, 2" in line and "--n-categories" in line
    mixed_n = np.tile(["x", "y"], 150)
    assert remarks(pd.DataFrame({"where": mixed_n}), category_n, batch_key="where") == []


def test_without_a_key_a_column_that_categories_follow_is_named():
    category_n = np.repeat([0, 1, 2], 100)
    follows_n, mixed_n = np.repeat(["x", "y", "z"], 100), np.tile(["x", "y"], 150)
    obs = pd.DataFrame({"donor": mixed_n, "tech": follows_n, "cluster": follows_n})
    (line,) = remarks(obs, category_n)
    assert "'tech'" in line and "--batch-key 'tech'" in line
    assert remarks(obs, category_n, labels_key="tech") == []
    assert remarks(obs, category_n, covariates=("tech",)) == []
    assert remarks(obs[["donor", "cluster"]], category_n) == []


# A run


def test_a_run_with_a_batch_key_reports_on_batches(folder):
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    assert {"batch_entropy", "batch_auc_category", "batch_auc_state"} <= set(metrics)
    table, result = pd.read_csv(folder / "run" / "batches.csv"), anndata.read_h5ad(folder / "run" / "result.h5ad")
    counts = pd.crosstab(result.obs["cplmix_category"].astype(int), result.obs["batch"])
    np.testing.assert_array_equal(table[["cells:b1", "cells:b2"]], counts)
    assert np.average(table["entropy"], weights=table["cells"]) == pytest.approx(metrics["batch_entropy"])
    said = (folder / "said.txt").read_text()
    assert "batch entropy" in said and "batches.csv" in said.splitlines()[-1]


def test_without_a_batch_key_there_is_nothing_of_batches(folder, tmp_path):
    said_by(train, "--data", folder / "cells.h5ad", *LINE, "--max-steps", "2", "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "batches.csv").exists()
    assert not [name for name in json.loads((tmp_path / "run" / "metrics.json").read_text()) if "batch_" in name]


def test_evaluate_gives_the_same_and_takes_other_cells(folder, tmp_path):
    said_by(evaluate, "--run", folder / "run", "--out", tmp_path / "own.json")
    own, metrics = (
        json.loads((tmp_path / "own.json").read_text()),
        json.loads((folder / "run/metrics.json").read_text()),
    )
    for name in ("batch_entropy", "batch_auc_category", "batch_auc_state"):
        assert own[name] == pytest.approx(metrics[name], abs=1e-6)
    pd.testing.assert_frame_equal(pd.DataFrame(own["batches"]), pd.read_csv(folder / "run" / "batches.csv"))
    cells(("b2", "b3"), 90).write_h5ad(tmp_path / "other.h5ad")
    given = ("--run", folder / "run", "--data", tmp_path / "other.h5ad", "--labels-key", "cell_type")
    said = said_by(evaluate, *given, "--out", tmp_path / "other.json")
    assert "did not occur in training (b3)" in said
    other = json.loads((tmp_path / "other.json").read_text())
    assert {"cells:b2", "cells:b3"} <= set(other["batches"][0]) and np.isfinite(other["reconstruction"])


def test_cells_of_known_batches_are_matched_by_name(folder):
    adata = cells()
    result = anndata.read_h5ad(folder / "run" / "result.h5ad")
    adata.obs["batch"] = pd.Categorical(adata.obs["batch"], categories=["b2", "b1"])
    out, said = predicted(folder, adata)
    assert "average" not in said
    np.testing.assert_allclose(out.obsm["cplmix_probs"], result.obsm["cplmix_probs"], atol=1e-6)
    np.testing.assert_allclose(out.obsm["X_cplmix"], result.obsm["X_cplmix"], atol=1e-5)
    one = cells()[result.obs["batch"] == "b2"].copy()
    out, said = predicted(folder, one)
    assert "average" not in said
    np.testing.assert_allclose(
        out.obsm["X_cplmix"], result[result.obs["batch"] == "b2"].obsm["X_cplmix"], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("backed", ["no", "yes"])
def test_an_unknown_batch_or_column_is_said_and_cells_are_still_assigned(folder, backed):
    out, said = predicted(folder, cells(("b1", "b3"), 90), "--backed", backed)
    (line,) = [line for line in said.splitlines() if "b3" in line and "average" in line]
    assert f"{(out.obs['batch'] == 'b3').sum()} cells" in line
    assert np.isfinite(out.obsm["X_cplmix"]).all() and np.isfinite(out.obsm["cplmix_probs"]).all()
    without = cells(n=90)
    del without.obs["batch"]
    out, said = predicted(folder, without, "--backed", backed)
    assert "no column 'batch'" in said
    assert np.isfinite(out.obsm["X_cplmix"]).all()


def test_training_on_disk_and_from_zarr_gives_the_table_too(folder, tmp_path):
    pytest.importorskip("zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr's own formats
        cells().write_zarr(tmp_path / "cells.zarr")
    for data, backed in ((tmp_path / "cells.zarr", "auto"), (folder / "cells.h5ad", "yes")):
        out = tmp_path / f"run_{backed}"
        said_by(train, "--data", data, "--backed", backed, "--batch-key", "batch", *LINE, "--out", out)
        table = pd.read_csv(out / "batches.csv")
        assert table[["cells:b1", "cells:b2"]].to_numpy().sum() == CELLS


def test_a_run_with_a_batch_key_resumes_bitwise_and_only_with_its_batches(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000040")
    given = ("--labels-key", "cell_type", "--batch-key", "batch", *LINE, "--out", tmp_path / "run", "--resume")
    other = cells()
    other.obs["batch"] = other.obs["batch"].replace({"b1": "b9"})
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(InputError, match="'batch'"):
        said_by(train, "--data", tmp_path / "other.h5ad", *given)
    assert "step-00000020" in said_by(train, "--data", folder / "cells.h5ad", *given)
    resumed, whole = (latest_checkpoint(place / "run" / "checkpoints")[0] for place in (tmp_path, folder))
    assert resumed.step == whole.step == 40
    for part, tensors in whole.parts.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, resumed.parts[part][name]), (part, name)


def test_the_table_in_python(folder):
    model = CplMixVAE.load(folder / "run", cells())
    pd.testing.assert_frame_equal(model.batch_table(), pd.read_csv(folder / "run" / "batches.csv"), check_dtype=False)
    with pytest.warns(CplMixWarning, match="b3"):
        table = model.batch_table(cells(("b1", "b3"), 60))
    assert table["cells:b3"].sum() > 0
    with pytest.raises(InputError, match="batch"):
        model.batch_table(cells(("b1",), 60))
