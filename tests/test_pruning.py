"""Pruning of categories: exact removal, the measure, the order of the stages, the choice, and the command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from bitwise import assert_bitwise
from test_stages import config_of, of_kind, planted, run

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.prune_command import prune
from cplmix_ray.cli.train_command import train
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.evaluation.trained_model import TrainedModel, newest_checkpoint
from cplmix_ray.metrics.category_consensus import consensus_of_categories, partners
from cplmix_ray.models.base import Parts
from cplmix_ray.models.cplmixvae.category_removal import without_categories
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.pruning.choice import choose, knee
from cplmix_ray.pruning.stages import Workbench, alternatives
from cplmix_ray.training.events import Snapshot
from cplmix_ray.training.loop import Start

K, REMOVED = 5, (1, 3)
SOFTMAX = {"posterior": "softmax", "n_categories": K}
LINEAR = {"decoder": "linear", "reconstruct": "cell"}
MODELS = {
    "network": {"model": SOFTMAX},
    "state without category": {"model": {**SOFTMAX, "state_given_category": False}},
    "shared": {"model": {**SOFTMAX, "shared_parameters": True}},
    "counts": {"model": {**SOFTMAX, "likelihood": "nb"}},
    "linear": {"model": {**SOFTMAX, **LINEAR}},
    "linear, batches": {"model": {**SOFTMAX, **LINEAR}, "input": {"batch_key": "batch"}},
    "fine categories": {"model": {**SOFTMAX, "overcluster": 2}},
}
"""Settings of which the posterior without some categories is the one before, normalised."""


def cells() -> anndata.AnnData:
    adata = planted()
    adata.obs["batch"] = pd.Categorical(["x", "y"] * (adata.n_obs // 2))
    return adata


def trained(sections: dict) -> tuple[CplMixVAEConfig, Dataset, Parts]:
    """A model after both stages, whose tensors all differ from those at the start."""
    config = config_of(**sections)
    data = build_dataset(source_from_anndata(cells(), labels_key="type"), config)
    return config, data, of_kind(run(config, data), Snapshot)[-1].parts


def model_of(config: CplMixVAEConfig, data, parts: Parts) -> TrainedModel:
    return TrainedModel.from_parts(config, data.training.preparations, parts, config.training.max_steps)


@pytest.mark.parametrize("sections", MODELS.values(), ids=MODELS)
def test_without_categories_the_posterior_is_that_of_the_others_normalised(sections):
    config, data, parts = trained(sections)
    smaller, left = without_categories(config, parts, REMOVED)
    assert smaller.model.n_categories == K - len(REMOVED)
    before, after = (
        model_of(*each).infer(data.training, ("log_q_ank",))["log_q_ank"]
        for each in ((config, data, parts), (smaller, data, left))
    )
    kept = np.delete(np.exp(before.astype(np.float64)), REMOVED, axis=-1)
    np.testing.assert_allclose(np.exp(after), kept / kept.sum(-1, keepdims=True), atol=2e-5)


@pytest.mark.parametrize("sections", MODELS.values(), ids=MODELS)
def test_what_is_decoded_from_a_category_stays(sections):
    config, data, parts = trained(sections)
    smaller, left = without_categories(config, parts, REMOVED)
    kept = [k for k in range(K) if k not in REMOVED]
    state = torch.randn(len(kept), config.model.state_dim, generator=torch.Generator().manual_seed(0))
    if "decoder" in sections["model"]:  # whose state 0 is the mean of all categories outside training
        found = []
        for settings, own in ((config, parts), (smaller, left)):
            linear = model_of(settings, data, own).model.network.linear
            n_k, n_d = settings.model.n_categories, config.model.state_dim
            means_agk = linear.weight[..., :n_k]
            loadings_agkd = linear.weight[..., n_k : n_k * (1 + n_d)].unflatten(-1, (n_k, n_d))
            centre_akd, spread_akd = (each.unflatten(-1, (n_k, n_d)) for each in (linear.centre, linear.log_spread))
            effects = [linear.own_effects.unflatten(-1, (n_k, -1))] if "input" in sections else []
            found.append([means_agk, loadings_agkd, centre_akd, spread_akd, *effects])
        axes = (2, 2, 1, 1, 2)
        for before, after, axis in zip(*found, axes[: len(found[0])], strict=True):
            assert torch.equal(before.index_select(axis, torch.tensor(kept)), after)
        return
    before = model_of(config, data, parts).model.decode(c=torch.eye(K)[kept], s=state)
    after = model_of(smaller, data, left).model.decode(c=torch.eye(len(kept)), s=state)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sections", MODELS.values(), ids=MODELS)
def test_training_continues_with_the_moments_of_the_weights_that_are_left(sections):
    config, data, parts = trained(sections)
    smaller, left = without_categories(config, parts, REMOVED)
    for arm, tensors in left.items():
        for name, tensor in tensors.items():
            if name.startswith("adam/") and not name.endswith("/step"):
                assert tensor.shape == tensors[f"network/{name.split('/')[1]}"].shape, name
                assert tensor.abs().sum() <= parts[arm][name].abs().sum() * (1 + 1e-6)
    steps = config.training.max_steps
    longer = smaller.with_settings(training={"max_steps": steps + 3})
    ended = of_kind(run(longer, data, start=Start(steps, left)), Snapshot)[-1]
    assert ended.step == steps + 3
    assert all(
        torch.isfinite(t).all() for tensors in ended.parts.values() for t in tensors.values() if t.is_floating_point()
    )


def test_removal_of_no_category_changes_nothing():
    config, _, parts = trained(MODELS["linear, batches"])
    same, left = without_categories(config, parts, ())
    assert_bitwise(left, parts)
    assert same.model == config.model


def test_a_fine_category_that_stands_for_none_is_never_used():
    config, data, parts = trained(MODELS["fine categories"])
    pool = next(iter(parts.values()))["network/pool"]
    largest = int(pool.sum(0).argmax())
    smaller, left = without_categories(config, parts, [k for k in range(K) if k not in (largest, (largest + 1) % K)])
    longer = smaller.with_settings(training={"max_steps": config.training.max_steps + 3})
    ended = of_kind(run(longer, data, start=Start(config.training.max_steps, left)), Snapshot)[-1].parts
    n_used = int(
        next(iter(left.values()))["network/pool"].shape[0]
        - (next(iter(left.values()))["network/category_head.bias"] < -1e3).sum()
    )
    for arm, tensors in ended.items():
        assert torch.equal(
            tensors["network/category_head.bias"][..., n_used:], left[arm]["network/category_head.bias"][..., n_used:]
        )


# The measure


def test_the_consensus_on_a_category_counts_the_cells_of_either_arm():
    first, second = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(consensus_of_categories(np.stack([first, second]), 4), [2 / 3, 1 / 3, 1 / 2, 0])
    assert partners(np.stack([first, second]), 4).tolist() == [1, 0, 1, -1]


def test_the_consensus_is_the_mean_over_pairs_of_arms():
    arms = np.random.default_rng(0).integers(0, 3, (3, 50))
    pairs = [consensus_of_categories(arms[[i, j]], 3) for i, j in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(consensus_of_categories(arms, 3), np.mean(pairs, axis=0))


# The stages and the choice


def test_alternatives_remove_the_weakest_and_of_equals_the_smaller():
    table = pd.DataFrame({"consensus": [0.5, 0.2, 0.9, 0.2], "cells": [9, 7, 8, 5]})
    assert alternatives(table, 1, 3) == [[3], [1], [0]]
    assert alternatives(table, 2, 2) == [[1, 3], [0, 3]]
    assert alternatives(table, 3, 9) == [[0, 1, 3], [1, 2, 3]]


def test_the_choice_is_the_most_categories_that_all_reach_the_minimum_or_the_knee():
    sizes, smallest = [6, 5, 4, 3, 2], [0.1, 0.3, 0.9, 0.92, 0.95]
    assert sizes[choose(sizes, smallest, "consensus", 0.85)[0]] == 4
    assert sizes[choose(sizes, smallest, "consensus", 0.93)[0]] == 2
    assert sizes[choose(sizes, smallest, "consensus", 0.99)[0]] == sizes[knee(sizes, smallest)] == 4
    assert sizes[choose(sizes, smallest, "knee", 0.93)[0]] == 4


def test_a_curve_of_one_stage_has_a_choice():
    assert choose([3], [0.2], "knee", 0.9)[0] == choose([3], [0.2], "consensus", 0.9)[0] == 0


# The command

STEPS = ("--retrain-steps", 5, "--at-once", 2)


def pruned(*words: object) -> None:
    prune([str(word) for word in words])


def refusal(capsys, monkeypatch, *words: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["prune", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        run_command(prune)
    return left.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run with five categories on cells of three types."""
    folder = tmp_path_factory.mktemp("pruning")
    cells().write_h5ad(folder / "cells.h5ad")
    steps = ["--max-steps", "200", "--batch-size", "32", "--hidden", "16", "--bottleneck", "8", "--engine", "local"]
    options = ["--n-categories", "5", *steps]
    train(["--data", str(folder / "cells.h5ad"), "--labels-key", "type", "--out", str(folder / "run"), *options])
    return folder / "run"


@pytest.fixture(scope="module")
def result(finished) -> Path:
    out = finished.parent / "pruned"
    pruned(finished, "--out", out, *STEPS)
    return out


def test_the_curve_has_a_row_for_each_number_with_what_was_removed(result):
    curve = pd.read_csv(result / "pruning.csv", dtype={"removed": str})
    sizes, removed = curve["categories"], curve["removed"].fillna("").str.split()
    assert (sizes.iloc[0], sizes.iloc[-1]) == (5, 1)
    assert (-sizes.diff().iloc[1:] == removed.str.len().iloc[1:]).all()
    assert len(set(removed.sum())) == 4  # numbers that the categories have in the run
    assert curve[["min_consensus", "val_reconstruction", "agreement_of_halves", "acc", "ari"]].notna().all(axis=None)
    assert (curve["min_consensus"].iloc[-1], curve["smallest_category"].iloc[-1]) == (1.0, 120)


def test_every_stage_is_an_ordinary_run(result):
    for stage, n_categories in enumerate(pd.read_csv(result / "pruning.csv")["categories"]):
        folder = RunFolder(result / "stages" / f"k-{n_categories:03d}")
        model = TrainedModel.load(folder.path)
        assert model.config.model.n_categories == n_categories
        assert len(pd.read_csv(folder.path / "categories.csv")) == n_categories
        assert model.step == 200 + 5 * stage


def test_the_folder_is_that_of_the_chosen_number(result):
    curve = pd.read_csv(result / "pruning.csv")
    chosen = curve["categories"][curve["min_consensus"] >= 0.95].max()
    assert TrainedModel.load(result).config.model.n_categories == chosen
    adata = anndata.read_h5ad(result / "result.h5ad")
    assert len(adata.obs["cplmix_category"].cat.categories) == chosen
    assert adata.obsm["cplmix_probs"].shape == (120, chosen)


def test_with_another_rule_only_the_choice_is_made_again(finished, result):
    stages = {path: path.stat().st_mtime_ns for path in (result / "stages").rglob("*")}
    pruned(finished, "--out", result, "--resume", "--min-consensus", 0)
    assert TrainedModel.load(result).config.model.n_categories == 5
    assert stages == {path: path.stat().st_mtime_ns for path in (result / "stages").rglob("*")}


def test_a_pruning_in_two_parts_equals_one(finished, result, tmp_path):
    pruned(finished, "--out", tmp_path, *STEPS, "--min-categories", 3)
    pruned(finished, "--out", tmp_path, *STEPS, "--resume")
    assert (tmp_path / "pruning.csv").read_text() == (result / "pruning.csv").read_text()
    one, other = (newest_checkpoint(out / "stages" / "k-001").parts for out in (result, tmp_path))
    assert_bitwise(one, other)


def test_candidates_leave_the_one_that_reconstructs_best(finished, tmp_path, monkeypatch):
    rows, retrain = [], Workbench.retrain

    def recorded(*arguments):
        rows.append(retrain(*arguments))
        return rows[-1]

    monkeypatch.setattr(Workbench, "retrain", recorded)
    pruned(finished, "--out", tmp_path, *STEPS, "--min-categories", 4, "--candidates", 3)
    losses = [row["val_reconstruction"] for row in rows]
    assert len(set(losses)) == 3
    assert pd.read_csv(tmp_path / "pruning.csv")["val_reconstruction"].iloc[-1] == min(losses)
    assert not list(tmp_path.rglob("alternative-*"))


def test_refusals(finished, result, tmp_path, capsys, monkeypatch):
    status, said = refusal(capsys, monkeypatch, finished, "--out", result)
    assert status == 2 and "--resume" in said
    status, said = refusal(capsys, monkeypatch, finished, "--out", finished)
    assert status == 2 and "already contains a run" in said
    status, said = refusal(capsys, monkeypatch, result, "--out", result, "--resume")
    assert status == 2 and "already contains a run" in said
    status, said = refusal(capsys, monkeypatch, result / "stages" / "k-001", "--out", result, "--resume")
    assert status == 2 and "another run" in said
    status, said = refusal(capsys, monkeypatch, tmp_path, "--out", tmp_path / "out")
    assert status == 2 and "no intact checkpoint" in said
    for option, value in (("--min-consensus", 1.5), ("--candidates", 0), ("--retrain-steps", 0)):
        status, said = refusal(capsys, monkeypatch, finished, "--out", tmp_path / "out", option, value)
        assert status == 2 and option in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["--n-arms 1", "--family vaegan"])
def test_runs_without_arms_to_compare_are_refused(tmp_path, capsys, monkeypatch, words):
    command = f"--data digits --subset 100 --max-steps 2 --hidden 8 --engine local {words}".split()
    if "vaegan" in words:
        from cplmix_ray.cli.augment_command import augment

        augment(["--data", "digits", "--subset", "100", "--max-steps", "2", "--out", str(tmp_path / "run")])
    else:
        train([*command, "--out", str(tmp_path / "run")])
    status, said = refusal(capsys, monkeypatch, tmp_path / "run", "--out", tmp_path / "out")
    assert status == 2 and ("--n-arms 2" in said or "vaegan" in said)


@pytest.mark.slow
def test_candidates_on_ray_are_those_of_one_process(finished, tmp_path):
    words = [*STEPS, "--min-categories", 3, "--candidates", 2]
    pruned(finished, "--out", tmp_path / "here", *words)
    pruned(finished, "--out", tmp_path / "ray", *words, "--engine", "ray")
    assert (tmp_path / "here" / "pruning.csv").read_text() == (tmp_path / "ray" / "pruning.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["pruning.csv", "stages/k-003/*/config.yaml", "stages/k-001"])
def test_a_killed_pruning_goes_on_to_the_same_end(finished, result, tmp_path, moment):
    out, words = tmp_path / "out", [str(finished), *map(str, STEPS)]
    command = [sys.executable, "-m", "cplmix_ray.prune", *words, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 120
    while not list(out.glob(moment)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pruned(*words, "--out", out, "--resume")
    assert (out / "pruning.csv").read_text() == (result / "pruning.csv").read_text()
    assert TrainedModel.load(out).config.model.n_categories <= 5
