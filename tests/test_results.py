"""One small run through the commands, and everything that users find afterwards."""

import contextlib
import io
import itertools
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import yaml
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import cplmix_ray
from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config import load_config
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.splits import split_cells
from cplmix_ray.metrics.category_scores import hungarian_accuracy, label_scores, posterior_scores

K, ARMS, STATES, STEPS, CELLS, GENES = 4, 2, 3, 30, 96, 40
LINE = (
    "--preset published "
    f"--layer counts --n-categories {K} --n-arms {ARMS} --state-dim {STATES} --max-steps {STEPS} --seed 7 --hidden 16 "
    f"--bottleneck 8 --batch-size 32 --val-fraction 0.25 --log-every 5 --evaluate-every 10 --checkpoint-every 20 "
    f"--lam 0.5 --beta 0.7 --lr 0.01 --engine local --threads 1"
).split()
IN_OBS = ("category", "confidence", "max_prob", "uncertain")
LABEL_SCORES = {"acc", "ari", "nmi"}
CONSENSUS_SCORES = {"acc_of_arms", "ece", "ece_uncalibrated", "error_auc"}
"""Scores against labels that are those of the consensus alone."""


def planted() -> anndata.AnnData:
    """Four types of cells as counts in a layer, their logarithms in X, and things of the user's own all around."""
    rng = np.random.default_rng(0)
    type_n = np.arange(CELLS) % 4
    rate_ng = np.full((CELLS, GENES), 1.0)
    for t in range(4):
        rate_ng[np.ix_(type_n == t, np.arange(6 * t, 6 * t + 6))] = 10.0
    counts = rng.poisson(rate_ng).astype(np.float32)
    labels = np.array([f"type {t}" for t in type_n], dtype=object)
    labels[::12] = None  # cells that nobody has named
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(labels), "depth": counts.sum(1), "batch": [f"b{i % 2}" for i in range(CELLS)]},
        index=[f"cell_{i}" for i in range(CELLS)],
    )
    var = pd.DataFrame({"length": np.arange(GENES) * 100}, index=[f"gene_{i}" for i in range(GENES)])
    return anndata.AnnData(
        np.log1p(counts),
        obs=obs,
        var=var,
        layers={"counts": sp.csr_matrix(counts), "halves": counts / 2},
        obsm={"X_user": rng.normal(size=(CELLS, 2))},
        uns={"study": {"name": "small", "numbers": np.arange(3)}, "colours": ["red", "blue"]},
    )


def command(function, *words: str | Path) -> str:
    """Run a command in this process; gives what it printed."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", ["command", *(str(word) for word in words)])
        run_command(function)
    return said.getvalue()


def read_json(path: Path) -> dict:
    """Strictly: NaN and Infinity are no JSON, and other languages cannot read them."""

    def refuse(constant: str):
        raise AssertionError(f"{path.name} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


@dataclass
class Run:
    data: Path
    out: Path
    said: str

    @property
    def result(self) -> anndata.AnnData:
        return anndata.read_h5ad(self.out / "result.h5ad")

    @property
    def metrics(self) -> dict:
        return read_json(self.out / "metrics.json")

    @property
    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        return latest_checkpoint(self.out / "checkpoints")[0].parts


def train_on(adata: anndata.AnnData, folder: Path, *words: str) -> Run:
    data, out = folder / "cells.h5ad", folder / "run"
    adata.write_h5ad(data)
    return Run(data, out, command(train, "--data", data, "--out", out, *LINE, *words))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return train_on(planted(), tmp_path_factory.mktemp("labelled"), "--labels-key", "cell_type")


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> Run:
    """The same cells, from a file that never had labels."""
    adata = planted()
    del adata.obs["cell_type"]
    return train_on(adata, tmp_path_factory.mktemp("unlabelled"))


def assert_same_values(one, other):
    assert type(one) is type(other)
    if sp.issparse(one):
        one, other = one.toarray(), other.toarray()
    np.testing.assert_array_equal(one, other)


def assert_users_own_is_unchanged(before: anndata.AnnData, after: anndata.AnnData):
    assert_same_values(before.X, after.X)
    for part in ("layers", "obsm"):
        for key, values in getattr(before, part).items():
            assert_same_values(values, getattr(after, part)[key])
    assert set(after.layers) == set(before.layers)
    pd.testing.assert_frame_equal(before.obs, after.obs[list(before.obs)])
    pd.testing.assert_frame_equal(before.var, after.var)
    assert after.uns["study"]["name"] == before.uns["study"]["name"]
    np.testing.assert_array_equal(after.uns["study"]["numbers"], before.uns["study"]["numbers"])
    np.testing.assert_array_equal(after.uns["colours"], before.uns["colours"])


# The folder


def test_the_run_folder_holds_what_is_documented_and_nothing_half_written(run):
    assert {path.name for path in run.out.iterdir()} == {
        "config.yaml",
        "metrics.json",
        "reliability.csv",
        "reliability.png",
        "result.h5ad",
        "checkpoints",
        "tensorboard",
    }
    checkpoints = sorted(path.name for path in (run.out / "checkpoints").iterdir())
    assert checkpoints == ["step-00000020", f"step-{STEPS:08d}"]
    assert not [path for path in run.out.rglob("*") if "partial" in path.name]


def test_the_last_line_says_where_the_results_are(run):
    last = run.said.strip().splitlines()[-1]
    assert str(run.out) in last
    assert "result.h5ad" in last


@pytest.mark.parametrize(
    ("words", "remedies"),
    [
        ((), {"--tau", "--lam"}),
        (("--posterior", "softmax"), {"--lam"}),
        (("--posterior", "softmax", "--coupling", "agreement"), {"--marginal"}),
    ],
    ids=["tempered", "softmax", "agreement"],
)
def test_what_might_help_against_empty_categories_is_a_setting_that_acts(tmp_path, words, remedies):
    line = "--preset published --data digits --n-categories 100 --hidden 16 --max-steps 2 --engine local --out"
    said = command(train, *line.split(), tmp_path / "out", *words)
    (hint,) = [line for line in said.splitlines() if "of 100 categories" in line]
    assert set(re.findall(r"--[a-z-]+", hint)) == remedies


def test_the_saved_configuration_is_the_one_asked_for(run):
    config = load_config(run.out / "config.yaml")
    assert (config.model.n_categories, config.model.n_arms, config.seed) == (K, ARMS, 7)
    assert (config.input.labels_key, config.input.layer) == ("cell_type", "counts")
    assert (config.objective.lam, config.training.max_steps) == (0.5, STEPS)


# metrics.json


def test_metrics_are_flat_and_go_by_their_names(run):
    metrics = run.metrics
    assert all(isinstance(value, int | float | str) for value in metrics.values())
    scores = LABEL_SCORES | CONSENSUS_SCORES | {"consensus", "agreement", "amp", "kl_qc_pc", "populated", "uncertain"}
    assert scores | {"reconstruction", "steps", "seconds"} <= set(metrics)
    assert {name for name in metrics if name.startswith("val_")} == {f"val_{name}" for name in scores}
    assert (metrics["steps"], metrics["n_cells"], metrics["n_arms"]) == (STEPS, CELLS, ARMS)
    assert (metrics["n_categories"], metrics["seed"], metrics["engine"]) == (K, 7, "local")
    assert 0 < metrics["seconds"] < 60


@pytest.mark.parametrize("prefix", ["", "val_"])
def test_scores_are_those_of_other_implementations(run, prefix):
    """Of all cells, and of the validation cells: scikit-learn, scipy, and the best of all matchings."""
    result, metrics = run.result, run.metrics
    chosen = split_cells(CELLS, 0.25, 7)[1] if prefix else np.arange(CELLS)
    q_nk = result.obsm["cplmix_probs"][chosen].astype(float)
    labels = result.obs["cell_type"].cat.codes.to_numpy()[chosen]
    assigned = result.obs["cplmix_category"].cat.codes.to_numpy()[chosen]
    known, found = labels[labels >= 0], assigned[labels >= 0]
    expected = {
        "acc": max(np.mean(np.array(types)[found] == known) for types in itertools.permutations(range(K))),
        "ari": adjusted_rand_score(known, found),
        "nmi": normalized_mutual_info_score(known, found),
        "amp": q_nk.max(axis=1).mean(),
        "kl_qc_pc": entropy(q_nk.mean(axis=0), np.full(K, 1 / K)),
        "populated": len(set(assigned)),
    }
    assert {name: metrics[prefix + name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_metrics_are_those_of_the_annotated_cells(run):
    result, metrics = run.result, run.metrics
    labels = result.obs["cell_type"].astype(object).fillna("").to_numpy(dtype=str)
    assigned = result.obs["cplmix_category"].to_numpy(dtype=str)
    expected = {**label_scores(labels, assigned), **posterior_scores(result.obsm["cplmix_probs"])}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    named = labels != ""
    assert named.sum() == CELLS - CELLS // 12
    assert metrics["acc"] == pytest.approx(hungarian_accuracy(labels[named], assigned[named]))


def test_the_reliability_of_the_confidence_is_that_of_the_annotated_cells(run, tmp_path):
    named = run.result[run.result.obs["cell_type"].notna()].obs
    table = pd.read_csv(run.out / "reliability.csv")
    for kind, column, score in (
        ("calibrated", "cplmix_confidence", "ece"),
        ("probability", "cplmix_max_prob", "ece_uncalibrated"),
    ):
        rows = table[table["of"] == kind]
        assert rows["cells"].sum() == len(named)
        mean = {name: np.average(rows[name], weights=rows["cells"]) for name in ("confidence", "correct")}
        assert mean == pytest.approx({"confidence": named[column].mean(), "correct": run.metrics["acc"]})
        gap = (rows["cells"] * (rows["confidence"] - rows["correct"]).abs()).sum() / len(named)
        assert run.metrics[score] == pytest.approx(gap)
    command(evaluate, "--run", run.out, "--out", tmp_path / "scores.json")
    pd.testing.assert_frame_equal(pd.DataFrame(read_json(tmp_path / "scores.json")["reliability"]), table)


def test_the_planted_types_are_better_found_than_by_chance(tmp_path):
    """Chance with four even types is little above a quarter; ten seeds of 150 steps reached 0.52 to 1."""
    run = train_on(planted(), tmp_path, "--labels-key", "cell_type", "--max-steps", "150")
    assert run.metrics["acc"] > 0.45


def test_there_are_no_label_scores_without_labels(unlabelled):
    names = {name.removeprefix("val_") for name in unlabelled.metrics}
    assert not names & (LABEL_SCORES | CONSENSUS_SCORES)
    assert not (unlabelled.out / "reliability.csv").exists()
    assert {"consensus", "amp", "kl_qc_pc", "populated"} <= names
    assert "ACC" not in unlabelled.said


# result.h5ad


def test_every_cell_has_a_category_and_a_confidence(run):
    result = run.result
    category = result.obs["cplmix_category"]
    assert isinstance(category.dtype, pd.CategoricalDtype)
    assert list(category.cat.categories) == [str(k) for k in range(K)]
    probs = result.obsm["cplmix_probs"]
    np.testing.assert_array_equal(category.cat.codes, probs.argmax(1))
    np.testing.assert_allclose(result.obs["cplmix_max_prob"], probs.max(1))
    assert result.obs["cplmix_confidence"].between(0, 1).all()
    assert result.obs["cplmix_uncertain"][result.obs["cplmix_confidence"] < 0.5].all()
    assert run.metrics["uncertain"] == pytest.approx(result.obs["cplmix_uncertain"].mean())
    assert f"{result.obs['cplmix_uncertain'].sum()} of {CELLS} cells are uncertain" in run.said


def test_probabilities_are_probabilities_and_states_have_their_dimensions(run):
    result = run.result
    assert result.obsm["cplmix_probs"].shape == (CELLS, K)
    assert result.obsm["cplmix_probs"].min() >= 0
    np.testing.assert_allclose(result.obsm["cplmix_probs"].sum(1), 1.0, atol=1e-5)
    state = result.obsm["X_cplmix"]
    assert state.shape == (CELLS, STATES)
    assert np.isfinite(state).all()
    assert np.all(state.std(0) > 0)


def test_the_object_says_what_made_it(run):
    origin, metrics = run.result.uns["cplmix_ray"], run.metrics
    assert origin["version"] == cplmix_ray.__version__
    assert parse_config(yaml.safe_load(origin["config"])) == load_config(run.out / "config.yaml")
    assert origin["seed"] == 7
    assert origin["consensus"] == metrics["consensus"]
    assert origin["metrics"] == metrics


def test_a_median_library_is_settled_once_for_resume_and_predict(tmp_path):
    for name in ("whole", "resumed", "new"):
        (tmp_path / name).mkdir()
    median = ("--target-sum", "median")
    whole = train_on(planted(), tmp_path / "whole", *median)
    resumed = train_on(planted(), tmp_path / "resumed", *median, "--max-steps", "20")
    command(train, "--data", resumed.data, "--out", resumed.out, *LINE, *median, "--resume")
    for part, tensors in whole.weights.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, resumed.weights[part][name]), (part, name)
    number = float(np.median(planted().obs["depth"]))
    assert f"{number:g}" in whole.said
    assert load_config(whole.out / "config.yaml").input.target_sum == number
    assert parse_config(yaml.safe_load(whole.result.uns["cplmix_ray"]["config"])).input.target_sum == number
    few = [5, 17, 80]
    assert_same_annotation(whole.result[few], predict_on(whole, planted()[few].copy(), tmp_path / "new"))


def test_what_the_user_had_is_unchanged(run):
    before, after = anndata.read_h5ad(run.data), run.result
    assert_users_own_is_unchanged(before, after)
    assert set(after.obs) - set(before.obs) == {f"cplmix_{name}" for name in IN_OBS}
    assert set(after.obsm) - set(before.obsm) == {"X_cplmix", "cplmix_probs"}
    assert set(after.uns) - set(before.uns) == {"cplmix_ray"}


# predict


def predict_on(run: Run, adata: anndata.AnnData, folder: Path, *words: str) -> anndata.AnnData:
    adata.write_h5ad(folder / "new.h5ad")
    before = (folder / "new.h5ad").read_bytes()
    command(predict, "--run", run.out, "--data", folder / "new.h5ad", "--out", folder / "annotated.h5ad", *words)
    assert (folder / "new.h5ad").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"new.h5ad", "annotated.h5ad"}
    return anndata.read_h5ad(folder / "annotated.h5ad")


def assert_same_annotation(one: anndata.AnnData, other: anndata.AnnData, key: str = "cplmix"):
    np.testing.assert_allclose(one.obsm["cplmix_probs"], other.obsm[f"{key}_probs"], atol=1e-5)
    np.testing.assert_allclose(one.obsm["X_cplmix"], other.obsm[f"X_{key}"], atol=1e-5)
    category = other.obs[f"{key}_category"]
    assert list(category.cat.categories) == [str(k) for k in range(K)]
    # By name: a view of some of the cells drops the categories that none of them has, and with them the codes.
    np.testing.assert_array_equal(one.obs["cplmix_category"].astype(str), category.astype(str))
    np.testing.assert_allclose(one.obs["cplmix_confidence"], other.obs[f"{key}_confidence"], atol=1e-5)


def test_predict_gives_the_training_cells_what_training_gave_them(run, tmp_path):
    annotated = predict_on(run, planted(), tmp_path)
    assert_same_annotation(run.result, annotated)
    assert_users_own_is_unchanged(anndata.read_h5ad(tmp_path / "new.h5ad"), annotated)
    assert annotated.uns["cplmix_ray"]["consensus"] == pytest.approx(run.metrics["consensus"])


@pytest.mark.parametrize("cells", [[0], [5, 17, 80, 3], list(range(CELLS - 1, -1, -1))], ids=["one", "few", "reversed"])
def test_predict_does_not_mind_which_other_cells_there_are(run, tmp_path, cells):
    annotated = predict_on(run, planted()[cells].copy(), tmp_path)
    assert_same_annotation(run.result[cells], annotated)


def test_predict_goes_by_the_names_of_the_genes(run, tmp_path):
    order = np.random.default_rng(3).permutation(GENES)
    annotated = predict_on(run, planted()[:, order].copy(), tmp_path)
    assert_same_annotation(run.result, annotated)
    assert list(annotated.var_names) == [f"gene_{i}" for i in order]


def test_predict_reads_another_layer_where_told(run, tmp_path):
    adata = planted()
    adata.layers["elsewhere"] = adata.layers.pop("counts")
    assert_same_annotation(run.result, predict_on(run, adata, tmp_path, "--layer", "elsewhere"))


def test_key_added_renames_everything(run, tmp_path):
    annotated = predict_on(run, planted(), tmp_path, "--key-added", "mine")
    assert_same_annotation(run.result, annotated, "mine")
    before = planted()
    assert set(annotated.obs) - set(before.obs) == {f"mine_{name}" for name in (*IN_OBS, "novelty")}
    assert set(annotated.obsm) - set(before.obsm) == {"X_mine", "mine_probs"}
    assert len(set(annotated.uns) - set(before.uns)) == 1
    assert "cplmix_ray" not in annotated.uns


# evaluate


def test_evaluate_prints_and_writes_the_scores_of_training(run, tmp_path):
    said = command(evaluate, "--run", run.out, "--out", tmp_path / "scores.json")
    written, metrics = read_json(tmp_path / "scores.json"), run.metrics
    names = sorted(LABEL_SCORES | {"consensus", "agreement", "amp", "kl_qc_pc", "populated", "reconstruction"})
    assert [written[name] for name in names] == pytest.approx([metrics[name] for name in names], rel=1e-5)
    assert (written["steps"], written["n_cells"]) == (STEPS, CELLS)
    (line,) = re.findall(r"^Consensus: (.*)$", said, flags=re.MULTILINE)
    for label, name in (("ACC", "acc"), ("ARI", "ari"), ("NMI", "nmi"), ("consensus", "consensus"), ("AMP", "amp")):
        assert f"{label} {metrics[name]:.4g}" in line
    assert str(tmp_path / "scores.json") in said.splitlines()[-1]


def test_evaluate_scores_every_arm(run, tmp_path):
    said = command(evaluate, "--run", run.out, "--out", tmp_path / "scores.json")
    arms = read_json(tmp_path / "scores.json")["arms"]
    assert len(arms) == ARMS
    for arm, scores in enumerate(arms):
        assert LABEL_SCORES | {"amp", "kl_qc_pc", "populated", "reconstruction"} == set(scores)
        assert f"Arm {arm}: ACC {scores['acc']:.4g}" in said
    assert np.mean([scores["reconstruction"] for scores in arms]) == pytest.approx(run.metrics["reconstruction"])
    assert np.mean([scores["acc"] for scores in arms]) == pytest.approx(run.metrics["acc_of_arms"])


def test_evaluate_takes_other_cells_and_their_labels(run, tmp_path):
    """The user knows the types under other names and in other words."""
    adata = planted()[:40].copy()
    adata.obs["mine"] = adata.obs.pop("cell_type").cat.rename_categories(lambda name: f"my {name}")
    adata.write_h5ad(tmp_path / "other.h5ad")
    line = ["--run", run.out, "--data", tmp_path / "other.h5ad", "--out", tmp_path / "scores.json"]
    command(evaluate, *line, "--labels-key", "mine", "--layer", "counts")
    result = run.result[:40]
    labels = result.obs["cell_type"].astype(object).fillna("").to_numpy(dtype=str)
    expected = label_scores(labels, result.obs["cplmix_category"].to_numpy(dtype=str))
    written = read_json(tmp_path / "scores.json")
    assert {name: written[name] for name in expected} == pytest.approx(expected)


def test_evaluate_without_labels_has_no_label_scores(unlabelled, tmp_path):
    said = command(evaluate, "--run", unlabelled.out, "--out", tmp_path / "scores.json")
    written = read_json(tmp_path / "scores.json")
    assert not LABEL_SCORES & set(written)
    assert not any(LABEL_SCORES & set(scores) for scores in written["arms"])
    assert "ACC" not in said


def test_evaluate_writes_into_the_run_folder_by_default(unlabelled):
    said = command(evaluate, "--run", unlabelled.out)
    path = unlabelled.out / "evaluation.json"
    assert str(path) in said
    assert read_json(path)["amp"] == pytest.approx(unlabelled.metrics["amp"])


# TensorBoard


@pytest.fixture(scope="module")
def scalars(run) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, as TensorBoard itself reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.out / "tensorboard")).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_has_every_term_and_every_score(scalars):
    terms = {"reconstruction", "kl_state", "entropy", "marginal_entropy", "loss", "gradient", "sigma_floored"}
    scores = LABEL_SCORES | {"amp", "kl_qc_pc", "populated"}
    assert set(scalars) == {
        "loss/total",
        "loss/distance",
        "schedule/lam",
        "schedule/lr",
        "consensus/consensus",
        "consensus/agreement",
        *(f"consensus/{name}" for name in scores),
        *(f"arm{arm}/{name}" for arm in range(ARMS) for name in terms | scores | {"val_reconstruction"}),
    }
    assert all(np.isfinite(value) for points in scalars.values() for value in points.values())


def test_tensorboard_has_terms_and_scores_at_the_steps_asked_for(scalars):
    for tag in ("loss/total", "loss/distance", "arm0/reconstruction", "arm1/entropy", "schedule/lr"):
        assert list(scalars[tag]) == list(range(5, STEPS + 1, 5))
    for tag in ("consensus/acc", "consensus/consensus", "arm0/acc", "arm1/val_reconstruction"):
        assert list(scalars[tag]) == [10, 20, 30]


def test_the_total_loss_is_the_sum_of_its_parts(scalars):
    """Two arms: (A - 1) = 1 times the arms' own parts, plus lambda times the distance."""
    for step, total in scalars["loss/total"].items():
        own = sum(
            scalars[f"arm{arm}/reconstruction"][step]
            + 0.7 * scalars[f"arm{arm}/kl_state"][step]
            - scalars[f"arm{arm}/entropy"][step]
            for arm in range(ARMS)
        )
        assert total == pytest.approx(own + 0.5 * scalars["loss/distance"][step], rel=1e-4)


def test_the_loss_falls(scalars):
    steps = sorted(scalars["loss/total"])
    assert scalars["loss/total"][steps[-1]] < scalars["loss/total"][steps[0]]


def test_the_last_scores_in_tensorboard_are_those_of_the_validation_cells(run, scalars):
    metrics = run.metrics
    for name in ("acc", "ari", "nmi", "consensus", "amp", "kl_qc_pc", "populated"):
        assert scalars[f"consensus/{name}"][STEPS] == pytest.approx(metrics[f"val_{name}"], abs=1e-5)


# Labels serve for scores only


def assert_bitwise(one: Run, other: Run):
    assert one.weights.keys() == other.weights.keys()
    for arm, tensors in one.weights.items():
        assert tensors.keys() == other.weights[arm].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other.weights[arm][name]), (arm, name)
    np.testing.assert_array_equal(one.result.obsm["cplmix_probs"], other.result.obsm["cplmix_probs"])
    np.testing.assert_array_equal(one.result.obsm["X_cplmix"], other.result.obsm["X_cplmix"])


def test_a_file_without_labels_trains_to_the_same_weights(run, unlabelled):
    assert_bitwise(run, unlabelled)


@pytest.mark.parametrize("labels", ["wrong", "all missing"])
def test_other_labels_train_to_the_same_weights(run, tmp_path, labels):
    adata = planted()
    if labels == "wrong":
        adata.obs["cell_type"] = np.random.default_rng(5).permutation(adata.obs["cell_type"].astype(str))
    else:
        adata.obs["cell_type"] = pd.Categorical([None] * CELLS, categories=["nobody knows"])
    other = train_on(adata, tmp_path, "--labels-key", "cell_type")
    assert_bitwise(run, other)
    # Their scores tell them apart: the labels did arrive.
    if labels == "wrong":
        assert other.metrics["acc"] != run.metrics["acc"]
    else:
        assert not LABEL_SCORES & set(other.metrics)


def test_another_seed_trains_to_other_weights(run, tmp_path):
    """Else the comparisons above would hold for nothing."""
    other = train_on(planted(), tmp_path, "--seed", "8")
    name = "network/output.weight"
    assert not torch.equal(run.weights["arm-0"][name], other.weights["arm-0"][name])
