"""Calibrated confidence, novelty and unknown cells: closed forms, and what the commands do with them."""

import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import safetensors.numpy
from sklearn.metrics import roc_auc_score
from test_results import command, read_json

from cplmix_ray import CplMixVAE
from cplmix_ray.checkpoints.reference_file import REFERENCE
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.neighbors.reanalyses import agreement_with_reanalyses
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.splits import split_cells
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.cplmixvae.evaluation import uncertain_cells
from cplmix_ray.models.cplmixvae.reference_cells import NOVELTY_QUANTILE, SHARE_OF_ERRORS, ReferenceCells
from cplmix_ray.utils.errors import InputError

TYPES, GENES = 4, 60


def cells(n: int, seed: int, types: int = TYPES) -> anndata.AnnData:
    """Counts of types that differ in ten genes each."""
    rng = np.random.default_rng(seed)
    type_n = np.arange(n) % types
    rate_ng = np.ones((n, GENES))
    for t in range(types):
        rate_ng[np.ix_(type_n == t, np.arange(10 * t, 10 * t + 10))] = 12.0
    adata = anndata.AnnData(rng.poisson(rate_ng).astype(np.float32))
    adata.obs_names = [f"cell_{i}" for i in range(n)]
    adata.obs["kind"] = [f"type {t}" for t in type_n]
    return adata


def reference(points_rp: np.ndarray, category_r: np.ndarray, agreement_r: np.ndarray) -> ReferenceCells:
    n_p = points_rp.shape[1]
    return ReferenceCells(
        np.zeros(n_p),
        np.ones(n_p),
        np.eye(n_p),
        np.zeros((0, n_p)),
        points_rp,
        category_r,
        agreement_r,
        np.zeros(3),
        np.ones(3),
        np.ones(1),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run on three of the four types."""
    folder = tmp_path_factory.mktemp("three_types")
    cells(300, 0, TYPES - 1).write_h5ad(folder / "train.h5ad")
    command(
        train,
        *("--data", folder / "train.h5ad", "--n-categories", TYPES - 1, "--labels-key", "kind", "--max-steps", 60),
        *("--val-fraction", 0.2, "--hidden", "16", "--engine", "local", "--threads", 1, "--out", folder / "run"),
    )
    return folder / "run"


def test_separate_types_agree_in_all_analyses_and_shuffled_categories_in_few():
    x_ng = np.log1p(cells(240, 1).X)
    type_n, none = np.arange(240) % TYPES, np.zeros((240, 0))
    assert agreement_with_reanalyses(x_ng, none, type_n, TYPES, 0).mean() > 0.97
    shuffled_n = np.random.default_rng(0).permutation(type_n)
    # Under the best of the matchings, a little more than a quarter.
    assert agreement_with_reanalyses(x_ng, none, shuffled_n, TYPES, 0).mean() < 0.4


def test_a_batch_effect_does_not_count_where_the_batch_is_known():
    x_ng = np.log1p(cells(240, 1).X)
    batch_n = np.random.default_rng(2).integers(2, size=240)
    x_ng[batch_n == 1, 40:] += 3.0
    design_nv, type_n = np.eye(2, dtype=np.float32)[batch_n], np.arange(240) % TYPES
    known = agreement_with_reanalyses(x_ng, design_nv, type_n, TYPES, 0).mean()
    assert known > 0.97 > 0.9 > agreement_with_reanalyses(x_ng, np.zeros((240, 0)), type_n, TYPES, 0).mean()


def test_the_confidence_is_that_of_the_nearest_cells_of_the_category():
    rng = np.random.default_rng(0)
    points_rp = np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 0.0]], 20, axis=0) + 0.01 * rng.normal(size=(60, 2))
    kept = reference(points_rp, np.repeat([0, 0, 1], 20), np.repeat([1.0, 0.5, 0.25], 20))
    found_n = kept.confidence(np.array([[0.0, 0.1], [9.0, 0.1], [9.0, 0.1], [0.0, 0.0]]), np.array([0, 0, 1, 2]))
    # The third is far from all cells of its category; no reference cell has the category of the last.
    agreement_n = np.array([1.0, 0.5, 0.25, (1.0 + 0.5 + 0.25) / 3])
    np.testing.assert_allclose(found_n, 1 - SHARE_OF_ERRORS * (1 - agreement_n))


def test_novelty_is_the_sum_of_its_parts_in_units_of_the_threshold():
    kept = replace(
        reference(np.zeros((3, 2)), np.zeros(3, int), np.ones(3)),
        usual_j=np.array([1.0, 2.0, 3.0]),
        spread_j=np.array([1.0, 0.5, 2.0]),
        threshold=np.array([4.0]),
    )
    parts_nj = np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 5.0], [1000.0, 2.0, 3.0]])
    np.testing.assert_allclose(kept.novelty(parts_nj), [0.0, 1.0, 10.0 / 4])  # no part counts more than ten


def test_uncertain_cells_are_those_of_which_arms_disagree_or_the_confidence_is_low():
    q_ank = np.array([[[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]], [[0.8, 0.2], [0.2, 0.8], [0.9, 0.1]]])
    outputs = {"log_q_ank": np.log(q_ank), "probs_nk": q_ank.mean(axis=0)}
    assert uncertain_cells(outputs).tolist() == [False, True, False]
    assert uncertain_cells(outputs | {"confidence_n": np.array([0.6, 0.9, 0.4])}).tolist() == [False, True, True]


def test_arrays_of_another_model_are_refused():
    kept = reference(np.zeros((3, 2)), np.zeros(3, int), np.ones(3))
    fitting = Preparation("log", ("a", "b"))
    assert ReferenceCells.from_arrays(kept.arrays(), fitting).arrays().keys() == kept.arrays().keys()
    with pytest.raises(ValueError, match="genes"):
        ReferenceCells.from_arrays(kept.arrays(), Preparation("log", ("a", "b", "c")))
    with pytest.raises(ValueError):
        ReferenceCells.from_arrays({**kept.arrays(), "agreement_r": np.array([1.0, np.nan, 1.0])}, fitting)
    with pytest.raises(ValueError):
        ReferenceCells.from_arrays({"mean_g": np.zeros(2)}, fitting)


def test_separate_types_are_calibrated_and_both_errors_are_reported(trained):
    metrics = read_json(trained / "metrics.json")
    assert metrics["acc"] == 1.0
    assert metrics["ece"] < 0.02
    assert 0 <= metrics["ece_uncalibrated"] <= 1


def test_the_threshold_is_the_quantile_of_the_validation_cells(trained):
    model = TrainedModel.load(trained)
    source = anndata.read_h5ad(trained.parent / "train.h5ad")
    prepared = model.prepare(source_from_anndata(source))
    novelty_n = model.compared(prepared, model.infer(prepared))["novelty_n"]
    val_idx = split_cells(source.n_obs, 0.2, model.config.seed)[1]
    assert np.quantile(novelty_n[val_idx], NOVELTY_QUANTILE) == pytest.approx(1.0, abs=1e-3)


def test_predict_finds_the_type_that_was_left_out(trained, tmp_path):
    new = cells(200, 5)
    new.write_h5ad(tmp_path / "new.h5ad")
    line = ("--run", trained, "--data", tmp_path / "new.h5ad", "--out", tmp_path / "out.h5ad")
    said = command(predict, *line, "--unknown")
    obs = anndata.read_h5ad(tmp_path / "out.h5ad").obs
    unlike_n, left_out_n = obs["cplmix_novelty"], obs["kind"] == f"type {TYPES - 1}"
    assert roc_auc_score(left_out_n, unlike_n) > 0.95
    np.testing.assert_array_equal(obs["cplmix_category"] == "unknown", unlike_n > 1)
    assert f"{(unlike_n > 1).sum()} of 200 cells have a novelty above" in said
    command(predict, *line)
    assert "unknown" not in set(anndata.read_h5ad(tmp_path / "out.h5ad").obs["cplmix_category"])


def test_a_cell_has_the_same_confidence_alone_and_among_others(trained, tmp_path):
    whole = anndata.read_h5ad(trained / "result.h5ad")
    whole[[3, 40, 77]].write_h5ad(tmp_path / "few.h5ad")
    command(predict, "--run", trained, "--data", tmp_path / "few.h5ad", "--out", tmp_path / "out.h5ad")
    few = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(few.obs["cplmix_confidence"], whole.obs["cplmix_confidence"].iloc[[3, 40, 77]])


def test_a_saved_model_keeps_its_reference_cells(trained, tmp_path):
    new = cells(80, 6)
    model = CplMixVAE.load(trained, new)
    model.save(tmp_path / "model")
    again = CplMixVAE.load(tmp_path / "model", new)
    np.testing.assert_array_equal(again.get_confidence(), model.get_confidence())
    np.testing.assert_array_equal(again.get_novelty(), model.get_novelty())
    unknown_n = again.get_assignments(unknown=True) == "unknown"
    np.testing.assert_array_equal(unknown_n, again.get_novelty() > 1)
    assert "unknown" not in again.get_assignments().cat.categories


@pytest.mark.parametrize("damage", ["missing", "damaged", "of another model"])
def test_without_sound_reference_cells_nothing_is_called_unknown(trained, tmp_path, damage):
    shutil.copytree(trained, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints").glob(f"*/{REFERENCE}")
    if damage == "missing":
        path.unlink()
    elif damage == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.write_bytes(safetensors.numpy.save({"mean_g": np.zeros(3)}))
    cells(20, 7).write_h5ad(tmp_path / "new.h5ad")
    line = ("--run", tmp_path / "run", "--data", tmp_path / "new.h5ad", "--out", tmp_path / "out.h5ad", "--unknown")
    with pytest.raises(SystemExit) as ended:
        command(predict, *line)
    assert ended.value.code == 2
    assert not (tmp_path / "out.h5ad").exists()


def test_a_model_of_an_earlier_version_says_what_it_lacks(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob(f"*/{REFERENCE}"):
        path.unlink()
    new = cells(20, 8)
    model = CplMixVAE.load(tmp_path / "run", new)
    assert len(model.get_assignments()) == 20
    with pytest.raises(InputError, match="reference cells"):
        model.get_novelty()
