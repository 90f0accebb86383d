"""`train --seeds`: several runs, their consensus, and how it is resumed; `compare` of what they wrote."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from test_results import LINE, command, planted, read_json

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli.compare_command import compare
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config import load_config
from cplmix_ray.data.io.read import read_source
from cplmix_ray.metrics.category_scores import label_scores
from cplmix_ray.metrics.registry import find_metric
from cplmix_ray.runs.seeds import ended_probabilities

SEEDS = (7, 8, 9)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    planted().write_h5ad(path)
    return path


def line(data: Path, out: Path, *words: str) -> list[str]:
    return ["--data", str(data), "--out", str(out), "--labels-key", "cell_type", *LINE, *words]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("seeds") / "runs"
    command(train, *line(data, out, "--seeds", "3"))
    return out


@pytest.fixture(scope="module")
def single(data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("single") / "run"
    command(train, *line(data, out, "--seed", "8"))
    return out


def weights(folder: Path) -> dict:
    return latest_checkpoint(folder / "checkpoints")[0].parts


def same(a: dict, b: dict) -> bool:
    return all((a[part][name] == b[part][name]).all() for part in a for name in a[part])


def test_each_seed_is_a_run_of_its_own(trained, single):
    assert same(weights(trained / "seed-8"), weights(single))
    assert not same(weights(trained / "seed-8"), weights(trained / "seed-7"))
    assert read_json(trained / "seed-8" / "metrics.json")["acc"] == read_json(single / "metrics.json")["acc"]


def test_the_result_is_the_consensus(trained):
    result, metrics = anndata.read_h5ad(trained / "result.h5ad"), read_json(trained / "metrics.json")
    runs = [anndata.read_h5ad(trained / f"seed-{seed}" / "result.h5ad") for seed in SEEDS]
    probs_nk = result.obsm["cplmix_probs"]
    np.testing.assert_allclose(probs_nk.sum(axis=1), 1, rtol=1e-5)
    assert (result.obs["cplmix_category"].astype(int) == probs_nk.argmax(axis=1)).all()
    np.testing.assert_allclose(result.obs["cplmix_max_prob"], probs_nk.max(axis=1))
    assert result.obs["cplmix_confidence"].between(0, 1).all()  # calibrated with the medoid's reference cells
    medoid = runs[SEEDS.index(metrics["medoid"])]
    np.testing.assert_allclose(result.obsm["X_cplmix"], medoid.obsm["X_cplmix"], rtol=1e-5)
    labels_n = np.where(result.obs["cell_type"].isna(), "", result.obs["cell_type"].astype(str))
    scores = label_scores(labels_n.astype(str), probs_nk.argmax(axis=1))
    assert {name: metrics[name] for name in scores} == scores
    singles = [read_json(trained / f"seed-{seed}" / "metrics.json")["ari"] for seed in SEEDS]
    assert metrics["ari_of_runs"] == pytest.approx(np.mean(singles))
    assert metrics["lowest_ari_of_runs"] == min(singles)
    assert metrics["stability"] == pytest.approx(result.obs["cplmix_stability"].mean(), abs=1e-6)
    facts = {"steps", "n_cells", "n_categories", "n_arms", "n_seeds", "seed", "medoid"}
    assert {name for name in metrics if find_metric(name) is None} == facts
    assert list(result.uns["cplmix_ray"]["seeds"]) == list(SEEDS)


def test_the_table_has_a_row_for_each_category(trained):
    table = pd.read_csv(trained / "stability.csv")
    result = anndata.read_h5ad(trained / "result.h5ad")
    counts = result.obs["cplmix_category"].value_counts()
    assert table["cells"].tolist() == [counts[str(k)] for k in table["category"]]
    stays = result.obs.groupby("cplmix_category", observed=False)["cplmix_stability"].mean()
    full = table["cells"] > 0
    np.testing.assert_allclose(table["stays"][full], stays[table["category"].astype(str)][full.to_numpy()], rtol=1e-5)


def test_resuming_goes_on_where_it_was(trained, tmp_path):
    """The second of three runs was killed after its first checkpoint, and the third had not begun."""
    out = tmp_path / "runs"
    shutil.copytree(trained, out)
    (out / "seeds.json").write_text(json.dumps({"n_seeds": 3, "medoid": None}))
    shutil.rmtree(out / "seed-9")
    for name in ("result.h5ad", "metrics.json"):
        (out / name).unlink()
        (out / "seed-8" / name).unlink()
    (newest,) = (out / "seed-8" / "checkpoints").glob("step-*30")
    shutil.rmtree(newest)
    before = (out / "seed-7" / "result.h5ad").stat().st_mtime_ns
    said = command(train, "--resume", "--out", out)
    assert "Seed 8" in said and "Seed 9" in said and "Seed 7" not in said
    assert (out / "seed-7" / "result.h5ad").stat().st_mtime_ns == before
    assert read_json(out / "metrics.json") == pytest.approx(read_json(trained / "metrics.json"))
    again = command(train, "--resume", "--out", out)
    assert not any(f"Seed {seed}" in again for seed in SEEDS)
    longer = command(train, "--resume", "--out", out, "--max-steps", "31", "--seeds", "2")
    assert "Seed 7" in longer and "Seed 8" in longer and "Seed 9" not in longer


def test_a_result_of_fewer_steps_is_no_end(data, trained):
    """Killed in a longer run, a folder has the settings of that run and the result of the shorter one."""
    source, config = read_source(str(data), "counts"), load_config(trained / "config.yaml")
    assert ended_probabilities(RunFolder(trained / "seed-7"), config, source) is not None
    longer = config.with_settings(training={"max_steps": 31})
    assert ended_probabilities(RunFolder(trained / "seed-7"), longer, source) is None


def test_nothing_is_written_if_the_settings_do_not_fit_the_data(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        command(train, *line(data, tmp_path / "run", "--seeds", "3", "--covariates", "no_such_column"))
    assert stopped.value.code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--seeds", "1"], "--seeds 1"),
        (["--seeds", "3", "--subset", "50"], "--subset"),
        (["--seeds", "3", "--seed", str(2**32 - 2)], "--seed"),
        (["--seeds", "3", "--family", "vaegan", "--data", "digits"], "vaegan"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, words, named):
    with pytest.raises(SystemExit) as stopped:
        command(train, "--data", "digits", "--out", tmp_path / "run", *words)
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_refused(data, trained, single, capsys):
    before = (trained / "seeds.json").read_text()
    for out, words in (
        (trained, ["--seeds", "3"]),
        (single, ["--seeds", "3", "--resume"]),
        (trained, ["--resume", "--lr", "0.5"]),
        (trained, ["--resume", "--seeds", "4", "--seed", "2"]),
    ):
        with pytest.raises(SystemExit) as stopped:
            command(train, "--out", out, *words)
        assert stopped.value.code == 2
        assert str(out) in capsys.readouterr().err
    assert (trained / "seeds.json").read_text() == before


def test_other_cells_are_refused(trained, tmp_path, capsys):
    other = planted()
    other.layers["counts"][0, 0] += 1
    other.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(SystemExit) as stopped:
        command(train, "--resume", "--out", trained, "--seeds", "4", "--data", tmp_path / "other.h5ad")
    assert stopped.value.code == 2
    assert "other cells" in capsys.readouterr().err


def test_predict_and_evaluate_take_the_medoid(data, trained, tmp_path, capsys):
    medoid = read_json(trained / "metrics.json")["medoid"]
    for folder in (trained, trained / f"seed-{medoid}"):
        command(predict, "--run", folder, "--data", data, "--out", tmp_path / f"{folder.name}.h5ad")
        command(evaluate, "--run", folder, "--out", tmp_path / f"{folder.name}.json")
    a, b = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in (trained.name, f"seed-{medoid}"))
    np.testing.assert_array_equal(a.obsm["cplmix_probs"], b.obsm["cplmix_probs"])
    a, b = (read_json(tmp_path / f"{name}.json") for name in (trained.name, f"seed-{medoid}"))
    assert a == b


@pytest.mark.parametrize(
    ("facts", "remedy"), [(json.dumps({"n_seeds": 3, "medoid": None}), "--resume"), ("{", "damaged"), ("[]", "damaged")]
)
def test_without_a_medoid_there_is_no_model(data, tmp_path, capsys, facts, remedy):
    """Not all runs have ended, or the file that names the medoid is damaged."""
    (tmp_path / "seeds.json").write_text(facts)
    with pytest.raises(SystemExit) as stopped:
        command(predict, "--run", tmp_path, "--data", data, "--out", tmp_path / "out.h5ad")
    assert stopped.value.code == 2
    assert remedy in capsys.readouterr().err


def test_compare_a_run_with_itself_and_with_another_seed(trained, single, tmp_path):
    said = command(compare, single, trained / "seed-8", "--out", tmp_path / "same.csv")
    assert "ARI 1," in said and "Fingerprints are the same" in said
    table = pd.read_csv(tmp_path / "same.csv")
    assert (table["jaccard"] == 1).all() and (table["category"] == table["matched"]).all()
    assert said.strip().splitlines()[-1] == f"Results are in {tmp_path / 'same.csv'}."
    said = command(compare, single, trained / "seed-7")
    assert "seed (8, 7)" in said
    assert (single / "compare.csv").exists()


def test_compare_matches_cells_by_name(trained, tmp_path):
    result = anndata.read_h5ad(trained / "result.h5ad")
    part = result[[5, 3, 90, 40, 41, 42]].copy()
    part.write_h5ad(tmp_path / "part.h5ad")
    said = command(compare, tmp_path / "part.h5ad", trained)
    assert "6 cells in both" in said and "ARI 1," in said
    said = command(compare, trained, trained, "--key-b", "cell_type", "--out", tmp_path / "types.csv")
    table = pd.read_csv(tmp_path / "types.csv")
    labelled = result.obs["cell_type"].notna()
    assert table["cells"].sum() == labelled.sum() and f"{(~labelled).sum()} only in" in said


def test_compare_says_what_is_missing(trained, tmp_path, capsys):
    result = anndata.read_h5ad(trained / "result.h5ad")
    result.obs_names = [f"other {name}" for name in result.obs_names]
    result.write_h5ad(tmp_path / "renamed.h5ad")
    for a, b, words, named in (
        (trained, tmp_path / "nothing", (), "does not exist"),
        (trained, tmp_path, (), "result.h5ad"),
        (trained, trained, ("--key", "leiden"), "'leiden'"),
        (trained, tmp_path / "renamed.h5ad", (), "in common"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command(compare, a, b, *words)
        assert stopped.value.code == 2
        assert named in capsys.readouterr().err
