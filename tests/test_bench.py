"""Benchmarks: rows are what direct runs give, what is done is not done again, and the tables and pictures are right."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.benchmarks.baselines import resolve_clusters
from cplmix_ray.benchmarks.curve import curve_points, draw_curves
from cplmix_ray.benchmarks.entries import Entry, load_entries
from cplmix_ray.benchmarks.execute import RunOptions, categories_file, drop_rare_types, execute, load_cells
from cplmix_ray.benchmarks.rank import ALL, rank_scores, seed_agreement, write_rankings
from cplmix_ray.benchmarks.results import COLUMNS, append_row, keys_of, read_rows, summarize, values_of, with_keys
from cplmix_ray.benchmarks.runner import pending_runs, run_benchmark
from cplmix_ray.benchmarks.runs import expand_entries, read_settings, resolve_path, settings_text
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli.bench_command import bench
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.neighbors.principal_components import principal_components
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.training_set import MAIN, PreparedCells
from cplmix_ray.metrics.category_scores import label_scores
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.runs.run import run_training
from cplmix_ray.utils.errors import InputError, TrainingError

SMALL = {
    "model.hidden": [12],
    "model.bottleneck": 5,
    "training.max_steps": 6,
    "training.batch_size": 32,
    "copies.n_neighbours": 3,
    "copies.neighbour_pcs": 5,
}
HOME = Path(__file__).parent


class Silence:
    def say(self, line): ...
    def advance(self, step, figures): ...


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """A folder with 96 cells of four types, one of which has six cells only."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    types = np.repeat(["a", "b", "c", "rare"], [30, 30, 30, 6])
    rates = rng.gamma(1.0, 3.0, (4, 40))[np.unique(types, return_inverse=True)[1]]
    obs = pd.DataFrame({"kind": types}, index=[f"cell{i}" for i in range(96)])
    adata = anndata.AnnData(rng.poisson(rates).astype(np.float32), obs=obs)
    adata.var_names = [f"gene{i}" for i in range(40)]
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def entry(**changes) -> Entry:
    return Entry.model_validate(
        {"name": "x", "data": "cells.h5ad", "labels_key": "kind", "seeds": [0], "set": SMALL, **changes}
    )


def job(cells, **changes):
    (only,) = expand_entries([entry(**changes)], HOME, cells)
    return only


def run(jobs, out, workers=1):
    told = []
    failed = run_benchmark(jobs, out / "rows.csv", RunOptions(out), workers, lambda *end: told.append(end))
    return failed, told, read_rows(out / "rows.csv")


def write_bench(folder: Path, *entries: dict) -> Path:
    (folder / "bench.yaml").write_text(yaml.safe_dump(list(entries)))
    return folder / "bench.yaml"


@pytest.fixture(scope="module")
def measured(cells, tmp_path_factory):
    """Two numbers of arms and k-means, two seeds each."""
    out = tmp_path_factory.mktemp("measured")
    entries = [
        entry(name="arms", over={"model.n_arms": [1, 2]}, seeds=[0, 1]),
        entry(name="km", method="kmeans", seeds=[0, 1], set={}),
    ]
    jobs = expand_entries(entries, HOME, cells)
    failed, told, rows = run(jobs, out)
    assert failed == 0
    return jobs, told, rows, out


def test_a_row_holds_the_figures_of_the_run_that_train_would_make(measured, cells, tmp_path):
    jobs, _, rows, out = measured
    at = next(i for i, each in enumerate(jobs) if each.config.model.n_arms == 2 and each.config.seed == 1)
    model = {"n_arms": 2, "n_categories": 4, "hidden": [12], "bottleneck": 5}
    row = rows.iloc[at]
    config = parse_config(
        {
            "input": {"data": str(cells / "cells.h5ad"), "labels_key": "kind"},
            "model": model,
            "training": {"max_steps": 6, "batch_size": 32},
            "copies": {"n_neighbours": 3, "neighbour_pcs": 5},
            "placement": {"engine": "local", "threads": 1},
            "seed": 1,
        }
    )
    data = build_dataset(read_source(config.input.data, None, "kind"), config)
    direct = run_training(config, data, RunFolder(tmp_path), Silence())
    for name in ("acc", "ari", "nmi", "consensus", "agreement", "amp", "populated", "kl_qc_pc", "reconstruction"):
        assert float(row[name]) == pytest.approx(direct.metrics[name], rel=1e-5), name
        if name != "reconstruction":
            assert float(row[f"val_{name}"]) == pytest.approx(direct.metrics[f"val_{name}"], rel=1e-5), name
    held_out_cells = data.training.matrix.take(data.training.val_idx)
    held_out = direct.model.infer(PreparedCells({MAIN: replace(data.training.main, matrix=held_out_cells)}))
    assert float(row["val_reconstruction"]) == pytest.approx(np.mean(held_out["reconstruction_a"]), rel=1e-4)
    with np.load(categories_file(out, keys_of(rows)[at])) as file:
        assert file["category_n"].tolist() == direct.outputs["probs_nk"].argmax(axis=1).tolist()
    assert (row["n_cells"], row["n_types"], row["n_categories"]) == ("96", "4", "4")
    assert (row["coupling"], row["steps"], row["method"]) == ("d_sigma", "6", "cplmix")


def test_the_loss_on_validation_cells_is_that_of_eq_7_without_the_coupling(cells, tmp_path):
    """By the formulas: Gaussian KL of the state and entropy of the category, in NumPy."""
    from cplmix_ray.benchmarks.execute import held_out_losses
    from cplmix_ray.data.device_transfer import row_reader

    this = job(cells, set={**SMALL, "objective.beta": 0.7, "model.n_categories": 3})
    data = build_dataset(load_cells(this), this.config)
    model = run_training(this.config, data, RunFolder(tmp_path), Silence()).model
    idx_n, network = data.training.val_idx, model.model.network
    found = held_out_losses(model, data)
    import torch

    with torch.no_grad():
        x_ng = row_reader(data.training.matrix, torch.device("cpu"))(torch.as_tensor(idx_n)).dense()
        x_ang = x_ng.expand(2, -1, -1)
        encoded = network.encode(x_ang)
        mu, log_var = (t.numpy() for t in network.state(encoded.z_anb, encoded.log_q_ank.exp()))
    q = np.exp(encoded.log_q_ank.numpy())
    kl = (0.5 * (mu**2 + np.exp(log_var) - 1 - log_var)).sum(-1)
    own = 0.7 * kl + (q * np.log(q)).sum(-1)
    assert found["val_loss"] - found["val_reconstruction"] == pytest.approx(own.mean(), rel=1e-3)


def test_k_means_is_that_of_scikit_learn_on_the_same_components(cells):
    for scale in (False, True):
        this = job(cells, method="kmeans", baseline={"scale": scale, "pcs": 7, "restarts": 3}, seeds=[5])
        source = read_source(str(cells / "cells.h5ad"), None, "kind")
        values = np.asarray(fit_preparation(source, this.config.input).matrix.block())
        if scale:
            values = (values - values.mean(0)) / values.std(0)
        expected = KMeans(4, n_init=3, random_state=5).fit_predict(principal_components(values, 7, 0))
        figures = execute(this, RunOptions(cells / "out"))
        for name, score in label_scores(source.labels_n, expected).items():
            assert figures[name] == pytest.approx(score)
        assert figures["populated"] == 4
        assert figures["detail"] == "7 PCs"


@pytest.mark.slow
def test_leiden_comes_to_the_true_number_of_clusters(cells, tmp_path):
    pytest.importorskip("igraph")
    pytest.importorskip("scanpy")
    figures = execute(job(cells, method="leiden", min_cells_per_type=10), RunOptions(tmp_path))
    assert (figures["populated"], figures["n_categories"]) == (3, 3)
    assert figures["acc"] > 0.95
    assert "resolution" in figures["detail"]


def staircase(steps: dict[float, int]):
    """Clusters whose number at a resolution is that of the highest step below it."""

    def clusters_at(resolution: float) -> np.ndarray:
        return np.arange(max((n for bound, n in steps.items() if bound <= resolution), default=1))

    return clusters_at


@pytest.mark.parametrize("k", [1, 4, 9, 30, 250])
def test_the_resolution_is_found_by_bisection(k):
    clusters_at = staircase({0.3 * n: n for n in range(1, 300)})
    found, resolution = resolve_clusters(clusters_at, k)
    assert len(found) == k == len(clusters_at(resolution))


def test_a_number_of_clusters_that_is_jumped_over_is_looked_for_around_the_jump():
    """Bisection ends at 3, where two become four; three are found for a while at resolutions from 4 to 5 only."""

    def clusters_at(resolution: float) -> np.ndarray:
        return np.arange(3 if 4 < resolution < 5 else 2 if resolution < 3 else 4)

    assert len(resolve_clusters(clusters_at, 3)[0]) == 3
    found, _ = resolve_clusters(staircase({0.0: 2, 3.0: 5}), 3)
    assert len(found) == 2, "the closest, where none is right"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # scvi-tools brings many libraries that warn of their own future
def test_scvi_clusters_its_latent_space(cells, tmp_path):
    pytest.importorskip("scvi")
    figures = execute(
        job(cells, method="scvi_kmeans", min_cells_per_type=10, baseline={"epochs": 30}), RunOptions(tmp_path)
    )
    assert figures["acc"] > 0.9
    assert ", 30 epochs" in figures["detail"]


@pytest.mark.parametrize("method", ["leiden", "scvi_kmeans"])
def test_a_method_whose_package_is_missing_is_refused_before_anything_runs(method, cells, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"^The method {method} needs \w+; install it with: pip install"):
        pending_runs([job(cells), job(cells, method=method)], tmp_path / "rows.csv")


def test_types_with_few_cells_are_left_out_for_all_methods_alike(cells, tmp_path):
    for method in ("cplmix", "kmeans"):
        this = job(cells, method=method, min_cells_per_type=10)
        figures = execute(this, RunOptions(tmp_path))
        assert (figures["n_cells"], figures["n_types"], figures["n_categories"]) == (90, 3, 3)
        assert "min_cells_per_type=10" in this.settings
    source = load_cells(this)
    assert set(source.labels_n) == {"a", "b", "c"}
    assert source.adata.n_obs == source.matrix.shape[0] == len(source.labels_n) == 90
    assert (np.asarray(source.adata.X) == source.matrix.block()).all()


def test_cells_of_unknown_type_stay_and_a_test_set_keeps_its_cells():
    source = read_source("digits")
    labels_n = source.labels_n.copy()
    labels_n[labels_n == "3"] = ""
    held_out_n = np.arange(source.n_cells) % 5 == 0
    kept = drop_rare_types(dataclasses.replace(source, labels_n=labels_n, held_out_n=held_out_n), 178)
    common = pd.Series(labels_n[labels_n != ""]).value_counts()
    expected = np.isin(labels_n, ["", *common[common >= 178].index])
    assert 0 < (~expected).sum() < len(expected)
    assert kept.labels_n.tolist() == labels_n[expected].tolist()
    assert kept.held_out_n.tolist() == held_out_n[expected].tolist()


def test_the_seeds_and_runs_that_have_a_row_are_skipped_and_others_are_not(measured, cells):
    jobs, told, rows, out = measured
    assert [end[0].key for end in told] == [each.key for each in jobs] == keys_of(rows)
    assert pending_runs(jobs, out / "rows.csv") == []
    more = [entry(name="arms", over={"model.n_arms": [1, 2, 3]}, seeds=[0, 1, 2])]
    todo = pending_runs(expand_entries(more, HOME, cells), out / "rows.csv")
    assert sorted((each.config.model.n_arms, each.config.seed) for each in todo) == [
        (1, 2),
        (2, 2),
        (3, 0),
        (3, 1),
        (3, 2),
    ]
    other = [entry(name="arms", over={"model.n_arms": [2]}, set={**SMALL, "objective.lam": 0.5})]
    assert len(pending_runs(expand_entries(other, HOME, cells), out / "rows.csv")) == 1


def test_where_it_runs_and_what_it_logs_do_not_make_another_run(cells):
    plain = job(cells)
    for change in ({"training.log_every": 3}, {"placement.device": "cpu"}, {"training.evaluate_every": 2}):
        assert job(cells, set={**SMALL, **change}).key == plain.key
    for change in ({"objective.lam": 2.0}, {"input.hvg": 20}, {"training.max_steps": 7}):
        assert job(cells, set={**SMALL, **change}).key != plain.key
    assert job(cells, n_categories=4).key != plain.key
    assert job(cells, min_cells_per_type=3).key != plain.key
    one, two = (job(cells, method="kmeans", set={"model.n_arms": arms}) for arms in (1, 2))
    assert one.key == two.key, "settings of arms are nothing to k-means"


def test_a_default_that_changes_makes_another_run(cells, monkeypatch):
    from cplmix_ray.models.cplmixvae.config import Objective

    before = job(cells)
    other = {"objective": before.config.objective.model_copy(update={"lam": 3.0})}
    monkeypatch.setattr(
        "cplmix_ray.benchmarks.runs.parse_config", lambda *given: before.config.model_copy(update=other)
    )
    assert Objective().lam == 1.0
    assert job(cells).key != before.key


def test_models_are_left_only_where_asked_for(measured, cells, tmp_path):
    _, _, _, out = measured
    assert not list(out.rglob("checkpoints"))
    assert len(list(out.rglob("metrics.json"))) == 4
    execute(job(cells), RunOptions(tmp_path, keep_models=True))
    assert list(tmp_path.rglob("checkpoints/*"))


def test_an_interrupted_run_goes_on_from_its_checkpoint(cells, tmp_path):
    """Half of the run is done; the other half ends with the row that the whole run has."""
    whole = execute(job(cells), RunOptions(tmp_path / "whole"))
    this = job(cells)
    half = this.config.training.model_copy(update={"max_steps": 3})
    model = this.config.model.model_copy(update={"n_categories": 4})
    config = this.config.model_copy(update={"training": half, "model": model})
    folder = RunFolder(tmp_path / "half" / "runs" / f"x-{this.hash}" / "seed-0")
    run_training(config, build_dataset(load_cells(this), config), folder, Silence())
    begun = [path.name for path in folder.checkpoints.iterdir()]
    assert begun
    figures = execute(this, RunOptions(tmp_path / "half"))
    assert figures["steps"] == 6
    assert {n: v for n, v in figures.items() if n not in ("seconds", "step_ms")} == {
        n: v for n, v in whole.items() if n not in ("seconds", "step_ms")
    }


def test_a_run_that_fails_does_not_end_the_others(cells, tmp_path):
    entries = [entry(name="bad", n_categories=500), entry(name="wild", set={**SMALL, "training.lr": 1e30}), entry()]
    failed, told, rows = run(expand_entries(entries, HOME, cells), tmp_path)
    assert failed == 2
    assert rows["name"].tolist() == ["x"]
    assert "fewer than --n-categories 500" in told[0][1]
    assert "not finite" in told[1][1]


@pytest.mark.slow
def test_several_at_a_time_give_the_rows_of_one_after_the_other(measured, cells, tmp_path):
    jobs, _, rows, _ = measured
    some = [each for each in jobs if each.entry.name == "km" or each.config.model.n_arms == 2]
    failed, _, together = run(some, tmp_path, workers=2)
    assert failed == 0

    def figures(found):
        return sorted(found[[name for name in COLUMNS if name != "seconds"]].to_numpy().tolist())

    assert figures(together) == figures(with_keys(rows, {each.key for each in some}))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupted_benchmark_says_so_and_goes_on(tmp_path, workers):
    """Control-C reaches every process of the terminal."""
    spec = write_bench(tmp_path, {**GOOD, "set": {**SMALL, "training.max_steps": 150}, "seeds": [0, 1, 2, 3]})
    words = ["accuracy", str(spec), "--out", str(tmp_path / "out"), "--workers", workers]
    command, rows = [sys.executable, "-m", "cplmix_ray.bench", *words], tmp_path / "out" / "rows.csv"
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # Tests that run in the background of a shell ignore Control-C, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 300
    while read_rows(rows).empty and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, len(said.splitlines())) == (1, 1), said
    assert "The benchmark was interrupted; repeat the command" in said
    assert 1 <= len(read_rows(rows)) < 4
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert sorted(read_rows(rows)["seed"]) == ["0", "1", "2", "3"]


def test_rows_survive_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "rows.csv"
    assert read_rows(path).empty
    append_row(path, {"name": "one", "acc": 0.123456789, "val_acc": float("nan"), "settings": 'a="x, y" b=1'})
    with open(path, "a") as file:
        file.write("0.1.0,two,da")
    assert read_rows(path)["name"].tolist() == ["one"]
    append_row(path, {"name": "three", "seed": 0})
    rows = read_rows(path)
    assert rows["name"].tolist() == ["one", "three"]
    assert tuple(rows.loc[0, ["acc", "val_acc", "settings"]]) == ("0.123457", "", 'a="x, y" b=1')
    assert np.isnan(values_of(rows, "val_acc")[0])
    with open(path, newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)


@pytest.mark.parametrize("text", ["data,acc\ndigits,0.5\n", "words\n"])
def test_a_file_of_other_rows_is_refused(tmp_path, text):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match=r"rows\.csv"):
        read_rows(tmp_path / "rows.csv")


def test_settings_as_text_come_back_as_they_were():
    settings = {"copies.copies": ["a", "b c"], "input.layer": "raw = counts", "objective.lam": 0.5, "model.tau": None}
    assert read_settings(settings_text(settings)) == settings
    assert read_settings("") == {}


def test_a_value_is_a_column_a_setting_or_its_default(measured):
    _, _, rows, _ = measured
    assert values_of(rows, "model.n_arms").tolist() == [1, 1, 2, 2, 2, 2]
    assert (values_of(rows, "k_off")[0], values_of(rows, "model.n_categories")[0]) == (0, 4)
    assert (values_of(rows, "name")[0], values_of(rows, "seed")[0]) == ("arms", 0)
    assert values_of(rows, "model.hidden")[0] == [12]
    assert values_of(rows, "objective.lam")[0] == 1.0
    with pytest.raises(InputError, match=r"no column or setting 'model\.armz'"):
        values_of(rows, "model.armz")


def test_the_table_gives_means_and_sample_deviations_and_what_an_entry_compares(measured):
    _, _, rows, _ = measured
    table = summarize(rows, ["acc", "consensus"])
    assert table["runs"].tolist() == [2, 2, 2]
    values = rows["acc"][:2].astype(float)
    assert table["acc"][0] == f"{np.mean(values):.3f} +- {np.std(values, ddof=1):.3f}"
    assert table["consensus"][2] == "-"
    assert table["settings"].tolist() == ["model.n_arms=1", "model.n_arms=2", ""]
    assert summarize(rows[:1], ["acc"])["acc"][0] == f"{values[0]:.4g}"
    assert summarize(with_keys(rows[:0], set()), ["acc"]).empty


def ranked_row(data, seed, acc, **figures) -> dict[str, str]:
    row = dict.fromkeys(COLUMNS, "")
    row.update(name="n", data=data, method="cplmix", hash="h", seed=str(seed), acc=str(acc))
    return {**row, **{name: str(value) for name, value in figures.items()}}


def test_rank_correlations_of_closed_cases(tmp_path):
    accuracies = [0.1, 0.2, 0.3, 0.4]
    rows = [
        ranked_row("one", i, acc, consensus=acc, amp=1 - acc, reconstruction=10 - acc, populated=7, val_loss=v)
        for i, (acc, v) in enumerate(zip(accuracies, [3, 1, 4, 2], strict=True))
    ]
    rows += [ranked_row("two", i, acc, consensus=-acc) for i, acc in enumerate(accuracies[:3])]
    rows += [ranked_row("three", i, acc, consensus=acc) for i, acc in enumerate(accuracies[:2])]
    rows.append({**ranked_row("one", 9, 0.9, consensus=0.0), "method": "kmeans"})
    table = rank_scores(pd.DataFrame(rows))
    found = table.set_index(["data", "score"], drop=False).T
    one = found["one", "consensus"]
    assert (one.spearman_acc, one.runs) == (pytest.approx(1.0), 4)
    assert (one.picked_acc, one.mean_acc, one.best_acc) == (0.4, pytest.approx(0.25), 0.4)
    assert found["one", "amp"].spearman_acc == pytest.approx(-1.0)
    assert found["one", "amp"].picked_acc == 0.1
    assert found["one", "reconstruction"].spearman_acc == pytest.approx(1.0), "the smaller the better"
    assert found["one", "reconstruction"].picked_acc == 0.4
    assert np.isnan(found["one", "populated"].spearman_acc), "all runs have the same"
    assert found["one", "populated"].picked_acc == pytest.approx(0.25)
    assert found["one", "val_loss"].spearman_acc == pytest.approx(-spearmanr(accuracies, [3, 1, 4, 2]).statistic)
    assert found["two", "consensus"].spearman_acc == pytest.approx(-1.0)
    assert np.isnan(found["three", "consensus"].spearman_acc), "two runs are always in one order or the other"
    assert found[ALL, "consensus"].spearman_acc == pytest.approx(0.0), "the mean of 1 and -1"
    assert found[ALL, "consensus"].picked_acc == pytest.approx(np.mean([0.4, 0.1, 0.2]))
    assert (ALL, "amp") not in found, "one data set needs no mean"
    write_rankings(tmp_path / "rank.csv", table)
    with open(tmp_path / "rank.csv", newline="") as file:
        lines = {(line["data"], line["score"]): line for line in csv.DictReader(file)}
    assert lines["two", "consensus"]["spearman_acc"] == "-1.0000"
    assert lines["one", "populated"]["spearman_acc"] == ""
    assert lines["one", "val_loss"]["best_is"] == "low"


def test_agreement_between_seeds_is_between_runs_of_the_same_settings(measured):
    _, _, rows, out = measured
    found = seed_agreement(rows, out)
    for first in (0, 2, 4):
        both = []
        for key in keys_of(rows[first : first + 2]):
            with np.load(categories_file(out, key)) as file:
                both.append(file["category_n"])
        assert found[first] == found[first + 1] == pytest.approx(adjusted_rand_score(*both))
    assert seed_agreement(rows[:1], out).isna().all()
    assert seed_agreement(rows, out / "elsewhere").isna().tolist() == [True] * 6
    assert set(rank_scores(rows, out)["score"]) >= {"seed_agreement", "consensus", "val_loss"}
    assert "seed_agreement" not in set(rank_scores(rows)["score"])


def test_a_curve_has_a_bar_for_each_value_as_high_as_the_deviation():
    rows = [
        ranked_row("one", 0, 0.2, settings="model.n_arms=1"),
        ranked_row("one", 1, 0.4, settings="model.n_arms=1"),
        ranked_row("one", 0, 0.6, settings="model.n_arms=4"),
        ranked_row("two", 0, 0.5, settings=""),
    ]
    curves = curve_points(pd.DataFrame(rows), "model.n_arms", "data", "acc")
    sd = np.std([0.2, 0.4], ddof=1)
    assert curves.to_numpy().tolist() == [
        ["one", 1, pytest.approx(0.3), pytest.approx(sd), 2],
        ["one", 4, 0.6, 0.0, 1],
        ["two", 2, 0.5, 0.0, 1],
    ]
    (panel,) = draw_curves(curves, "model.n_arms", "acc").axes
    assert [curve.get_label() for curve in panel.containers] == ["one", "two"]
    (bars,) = panel.containers[0].lines[2]
    heights = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, [[0.3 - sd, 0.3 + sd], [0.6, 0.6]])
    assert panel.containers[0].lines[0].get_xdata().tolist() == [1, 4]
    assert [len(curve.lines[2][0].get_segments()) for curve in panel.containers] == [2, 1]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("arms A", "ACC")


def test_settings_that_are_words_stand_side_by_side():
    rows = [ranked_row("one", i, 0.5, coupling=name) for i, name in enumerate(["d_sigma", "agree", "d_sigma"])]
    curves = curve_points(pd.DataFrame(rows), "coupling", "name", "acc")
    assert curves[["curve", "x", "runs"]].to_numpy().tolist() == [["n", "agree", 1], ["n", "d_sigma", 2]]
    (panel,) = draw_curves(curves, "coupling", "acc").axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["agree", "d_sigma"]


GOOD = {"name": "x", "data": "digits", "set": {"training.max_steps": 2}}
BAD_FILES = {
    "no list": ({"name": "x"}, r"bench\.yaml"),
    "empty": ([], r"bench\.yaml"),
    "no data": ([{"name": "x"}], r"0\.data:"),
    "unknown key": ([{**GOOD, "colour": 1}], r"0\.colour:"),
    "unknown method": ([{**GOOD, "method": "magic"}], r"0\.method:.*kmeans"),
    "two of a name": ([GOOD, GOOD], r"bench\.yaml.*'x'"),
    "a name that is a path": ([{**GOOD, "name": "a/b"}], r"0\.name:"),
    "no seeds": ([{**GOOD, "seeds": []}], r"0\.seeds:"),
    "no values": ([{**GOOD, "over": {"model.n_arms": []}}], r"0\.over:"),
    "said twice": ([{**GOOD, "n_categories": 3, "over": {"model.n_categories": [4]}}], r"model\.n_categories"),
    "no such setting": ([{**GOOD, "set": {"model.n_armz": 2}}], r"entry 'x': model\.n_armz"),
    "no such section": ([{**GOOD, "set": {"modle.n_arms": 2}}], r"entry 'x'.*'modle\.n_arms'"),
    "seed in set": ([{**GOOD, "set": {"seed": 2}}], r"entry 'x'.*'seed'"),
    "out of bounds": ([{**GOOD, "over": {"model.n_arms": [0]}}], r"entry 'x': model\.n_arms"),
    "data in set": ([{**GOOD, "set": {"input.data": "digits"}}], r"entry 'x'.*input\.data"),
    "no config": ([{**GOOD, "config": "nowhere.yaml"}], r"nowhere\.yaml"),
    "no variable": ([{**GOOD, "data": "${CPLMIX_NOWHERE}/a.h5ad"}], r"CPLMIX_NOWHERE"),
    "no file": ([{**GOOD, "data": "nowhere.h5ad"}], r"nowhere\.h5ad.*'x'.*--data-dir"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_benchmark_that_cannot_be_used_is_one_sentence_and_leaves_nothing(case, tmp_path):
    tree, words = BAD_FILES[case]
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(InputError, match=words) as caught:
        bench(["accuracy", str(tmp_path / "bench.yaml"), "--out", str(tmp_path / "out")])
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bench.yaml"]


def test_data_is_found_by_variable_folder_and_name(monkeypatch, tmp_path):
    monkeypatch.setenv("CPLMIX_RAY_DATA", "/one")
    assert resolve_path("${CPLMIX_RAY_DATA}/a.h5ad", tmp_path) == "/one/a.h5ad"
    assert resolve_path("a.h5ad", tmp_path) == str(tmp_path / "a.h5ad")
    assert resolve_path("a.h5ad", None) == "/one/a.h5ad"
    assert resolve_path("digits", tmp_path) == "digits"


def test_the_line_from_runs_to_rank_and_curve(cells, tmp_path, capsys):
    spec = write_bench(
        tmp_path,
        {**entry(name="arms", over={"model.n_arms": [1, 2]}).model_dump(exclude={"baseline"}), "seeds": [0, 1]},
        {"name": "km", "data": "cells.h5ad", "labels_key": "kind", "method": "kmeans"},
    )
    line = ["accuracy", str(spec), "--data-dir", str(cells), "--out", str(tmp_path / "out")]
    bench([*line, "--only", "arms", "--seeds", "3"])
    rows = tmp_path / "out" / "rows.csv"
    assert read_rows(rows)[["name", "seed"]].to_numpy().tolist() == [["arms", "3"], ["arms", "3"]]
    bench(line)
    said = capsys.readouterr().out.splitlines()
    assert str(rows) in said[-1]
    assert len(read_rows(rows)) == 2 + 4 + 3
    assert sum("+-" in text for text in said) == 3
    before = rows.read_bytes()
    bench(line)
    assert rows.read_bytes() == before
    assert re.search(rf"\b7 runs\b.*\b7\b.*{re.escape(str(rows))}", capsys.readouterr().out)
    bench(["rank", str(rows)])
    assert str(rows.parent / "rank.csv") in capsys.readouterr().out.splitlines()[-1]
    assert "seed_agreement" in (rows.parent / "rank.csv").read_text()
    bench(["curve", str(rows), "--x", "model.n_arms", "--out", str(tmp_path / "arms.pdf")])
    assert re.search(r"cells\.h5ad\b.*\b6 runs\b.*model\.n_arms.*\b1, 2\b", capsys.readouterr().out)
    assert (tmp_path / "arms.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["rank", "nowhere.csv"], r"nowhere\.csv contains no rows"),
        (["curve", "nowhere.csv", "--x", "k_off"], r"nowhere\.csv contains no rows"),
        (["accuracy", "nowhere.yaml", "--out", "o"], r"Cannot read the benchmark nowhere\.yaml"),
        (["accuracy", "b.yaml", "--out", "o", "--workers", "0"], r"--workers 0 must be 1 or more"),
        (["accuracy", "b.yaml", "--out", "o", "--only", "z"], r"b\.yaml has no entry 'z'; it has x"),
        (["accuracy", "b.yaml"], r"see python -m cplmix_ray\.bench --help"),
        (["races"], r"see python -m cplmix_ray\.bench --help"),
    ],
)
def test_a_line_that_cannot_be_used_is_one_sentence(line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b.yaml").write_text(yaml.safe_dump([GOOD]))
    with pytest.raises(InputError, match=words) as caught:
        bench(line)
    assert "\n" not in str(caught.value)


def test_curves_of_nothing_and_pictures_of_no_kind_are_refused(measured, tmp_path):
    _, _, _, out = measured
    rows = str(out / "rows.csv")
    for words, sentence in [
        (["--x", "model.armz"], "'model.armz'"),
        (["--x", "model.n_arms", "--y", "beauty"], "'beauty'"),
        (["--x", "model.n_arms", "--y", "settings"], "'settings'"),
        (["--x", "model.n_arms", "--out", "a.doc"], r"a\.doc.*\.png.*\.pdf.*\.svg"),
        (["--x", "steps", "--method", "kmeans"], "steps.*acc"),
    ]:
        with pytest.raises(InputError, match=sentence):
            bench(["curve", rows, *words])


@pytest.mark.slow
def test_a_failed_run_makes_status_one_and_bad_input_two(cells, tmp_path):
    spec = write_bench(
        tmp_path, {**GOOD, "data": "cells.h5ad", "labels_key": "kind", "n_categories": 500, "seeds": [0]}
    )
    with pytest.raises(TrainingError, match="1 of 1 runs"):
        bench(["accuracy", str(spec), "--data-dir", str(cells), "--out", str(tmp_path / "out")])
    for words, status in [(["rank", "nowhere.csv"], 2), (["--help"], 0)]:
        done = subprocess.run(
            [sys.executable, "-m", "cplmix_ray.bench", *words],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
        )
        assert done.returncode == status, done.stderr
        assert len(done.stderr.splitlines()) == (status != 0)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "tune_configs").glob("bench_*.yaml")), ids=lambda path: path.stem
)
def test_the_shipped_benchmarks_are_valid(path):
    jobs = expand_entries(load_entries(path), path.parent, Path("data"))
    assert len(jobs) > 2
    assert json.dumps([str(each) for each in jobs])
