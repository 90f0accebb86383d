"""CplMixVAE in Python: set up, train, ask, save, load."""

import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from refusals import naming

from cplmix_ray import CplMixVAE, CplMixWarning
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.config import preset_names
from cplmix_ray.runs.history import History
from cplmix_ray.runs.run import run_training
from cplmix_ray.utils.errors import DiskError, InputError, TrainingError

# Notes on the data are tested below.
pytestmark = pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")
SMALL = {"hidden": (16,), "bottleneck": 6, "batch_size": 32, "engine": "local", "threads": 1, "n_neighbours": 5}
QUICK = {**SMALL, "preset": "published"}


@pytest.fixture(scope="module")
def adata():
    """120 cells of three planted types in 40 genes; counts in a layer, nothing of use in X."""
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], 40)
    rates = rng.gamma(2.0, 1.0, (3, 40)) * np.where(rng.random((3, 40)) < 0.3, 6.0, 1.0)
    cells = anndata.AnnData(
        X=np.zeros((120, 40), np.float32),
        obs=pd.DataFrame({"type": pd.Categorical([f"t{t}" for t in types])}, index=[f"c{i}" for i in range(120)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(40)]),
        layers={"counts": sp.csr_matrix(rng.poisson(rates[types]).astype(np.float32))},
    )
    CplMixVAE.setup_anndata(cells, layer="counts", labels_key="type")
    return cells


@pytest.fixture(scope="module")
def model(adata):
    model = CplMixVAE(adata, n_categories=3, n_arms=2, lr=3e-3, **SMALL)
    model.train(max_steps=150)
    return model


def test_training_finds_the_planted_types(model):
    assert model.metrics["acc"] > 0.8
    assert model.metrics["steps"] == 150


def test_answers_have_the_shapes_and_names_of_the_cells(adata, model):
    assigned = model.get_assignments()
    assert list(assigned.index) == list(adata.obs_names)
    assert list(assigned.cat.categories) == ["0", "1", "2"]
    probabilities = model.get_probabilities()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(1), assigned.astype(int))
    assert model.get_latent_representation().shape == (120, 2)


def test_a_loaded_model_gives_the_same_answers(tmp_path, adata, model):
    model.save(tmp_path / "saved")
    loaded = CplMixVAE.load(tmp_path / "saved", adata)
    np.testing.assert_array_equal(loaded.get_probabilities(), model.get_probabilities())
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_other_cells_are_matched_by_gene_name(adata, model):
    some = adata[10:30, ::-1].copy()
    np.testing.assert_allclose(model.get_probabilities(some), model.get_probabilities()[10:30], rtol=1e-4, atol=1e-6)


def test_loading_for_other_genes_is_refused(tmp_path, adata, model):
    model.save(tmp_path / "saved")
    with pytest.raises(InputError, match=naming(10, 40, "'g0'")):
        CplMixVAE.load(tmp_path / "saved", adata[:, 10:].copy())


def test_a_misspelt_setting_is_named(adata):
    with pytest.raises(InputError, match="'learning_rate'"):
        CplMixVAE(adata, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"model\.n_arms"):
        CplMixVAE(adata, n_arms=0)


@pytest.mark.parametrize(("name", "ours"), [("n_latent", "state_dim"), ("accelerator", "device")])
def test_names_of_scvi_tools_are_answered_with_the_name_here(adata, name, ours):
    with pytest.raises(TypeError, match=naming(name, f"there is {ours}")):
        CplMixVAE(adata, **{name: 3})


def test_settings_are_taken_as_python_has_them(adata):
    given = {"hidden": np.array([16, 8]), "lr": np.float32(0.5), "copies": "gene_dropout", "state_key": "age"}
    config = CplMixVAE(adata, **given).config
    assert (config.model.hidden, config.training.lr) == ((16, 8), 0.5)
    assert (config.copies.copies, config.input.state_key) == (("gene_dropout",), ("age",))


def test_nothing_can_be_asked_before_training(adata):
    with pytest.raises(InputError, match=r"train\(\)"):
        CplMixVAE(adata).get_assignments()


def test_counts_train_with_the_count_likelihoods(adata):
    for likelihood in ("nb", "zinb"):
        model = CplMixVAE(adata, n_categories=3, likelihood=likelihood, lr=3e-3, **QUICK)
        assert model.train(max_steps=150)["acc"] > 0.6, likelihood


def test_a_preset_is_where_the_settings_start(adata):
    model = CplMixVAE(adata, n_categories=3, preset="cells", seed=1, align_steps=30, **SMALL)
    assert (model.config.objective.coupling, model.config.model.n_arms) == ("agreement", 2)
    assert model.config.model.n_categories == 3
    assert model.train(max_steps=60)["acc"] > 0.8
    assert CplMixVAE(adata, preset="cells", n_arms=3).config.model.n_arms == 3
    with pytest.raises(InputError, match=naming("'cell'", *preset_names())):
        CplMixVAE(adata, preset="cell")


# What is given


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("cells.h5ad", "anndata.read_h5ad('cells.h5ad')"),
        (Path("cells.h5ad"), "anndata.read_h5ad('cells.h5ad')"),
        (pd.DataFrame({"g": [1.0]}), "anndata.AnnData"),
        (np.ones((3, 2)), "anndata.AnnData"),
        (sp.csr_matrix((3, 2)), "anndata.AnnData"),
        (None, "in place"),
        (type("MuData", (), {"mod": {"rna": 0}})(), "mdata['rna']"),
        (anndata.Raw(anndata.AnnData(np.ones((3, 2)))), "to_adata()"),
        ([1, 2], "anndata.concat"),
        (1, "cells x genes"),
    ],
)
def test_what_is_no_anndata_object_is_refused_at_once(adata, model, tmp_path, given, remedy):
    model.save(tmp_path / "saved")
    for call in (
        lambda: CplMixVAE.setup_anndata(given),
        lambda: CplMixVAE(given),
        lambda: CplMixVAE.load(tmp_path / "saved", given),
        lambda: model.get_assignments([given] if given is None else given),
    ):
        with pytest.raises(InputError, match=r"^adata must be an AnnData object, not ") as refused:
            call()
        assert isinstance(refused.value, TypeError)
        assert given is None or remedy in str(refused.value)


def test_arguments_are_checked_when_they_are_given(adata):
    with pytest.raises(TypeError, match=naming("layer", "list")):
        CplMixVAE.setup_anndata(adata, layer=["counts"])
    with pytest.raises(TypeError, match=naming("labels_key", "int")):
        CplMixVAE.setup_anndata(adata, labels_key=3)
    with pytest.raises(TypeError, match=naming("size_factor_key", "layer", "labels_key", "batch_key")):
        CplMixVAE.setup_anndata(adata, size_factor_key="size")
    with pytest.raises(TypeError, match=naming("batch_key", "setup_anndata")):
        CplMixVAE(adata, batch_key="donor")
    with pytest.raises(TypeError, match=naming("layer", "setup_anndata")):
        CplMixVAE(adata, layer="counts")
    with pytest.raises(TypeError, match=naming("'subset'")):
        CplMixVAE(adata, subset=20)
    with pytest.raises(TypeError, match=naming("progress", "str")):
        CplMixVAE(adata).train(progress="yes")


def test_settings_of_a_training_hold_for_that_training(adata):
    model = CplMixVAE(adata, n_categories=3, **QUICK)
    assert model.train(max_steps=2, seed=1, n_categories=4)["seed"] == 1
    assert (model.config.seed, model.config.model.n_categories, model.get_probabilities().shape[1]) == (1, 4, 4)
    again = model.train(epochs=1)
    assert (again["seed"], again["n_categories"], again["steps"]) == (0, 3, 3)


def test_a_loaded_model_trains_with_its_settings(adata, model, tmp_path):
    model.save(tmp_path / "m")
    loaded = CplMixVAE.load(tmp_path / "m", adata)
    assert loaded.train(max_steps=2)["n_categories"] == 3
    assert loaded.config.model.hidden == model.config.model.hidden


def test_an_interrupted_training_leaves_the_model_as_it_was(adata, monkeypatch):
    model = CplMixVAE(adata, n_categories=3, **QUICK)
    model.train(max_steps=2)
    before, said = model.get_probabilities(), repr(model)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("cplmix_ray.api.run_training", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.train(max_steps=3, n_categories=5)
    assert repr(model) == said
    np.testing.assert_array_equal(model.get_probabilities(), before)


def test_a_view_in_memory_is_set_up_and_trained_without_a_warning_of_anndata(adata):
    view = adata[:60, :30]
    CplMixVAE.setup_anndata(view, layer="counts")
    assert not view.is_view and "layer" in next(value for key, value in view.uns.items() if "cplmix" in key)
    model = CplMixVAE(view, n_categories=3, **QUICK)
    model.train(max_steps=2)
    view.obs["type"] = model.get_assignments()
    assert adata.n_obs == 120


def test_a_view_of_a_backed_object_is_refused_with_the_remedy_and_can_be_predicted(adata, model, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(InputError, match=r"adata\.to_memory\(\)"):
        CplMixVAE.setup_anndata(backed[:20])
    np.testing.assert_array_equal(model.get_assignments(backed[:20]), model.get_assignments()[:20])
    backed.file.close()


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_a_backed_object_is_scored_with_its_own_labels(adata, tmp_path, monkeypatch, mode):
    cells = adata.copy()
    cells.X = cells.layers["counts"]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed=mode)
    backed.obs["type"] = np.random.default_rng(1).permutation(backed.obs["type"].astype(str))
    CplMixVAE.setup_anndata(backed, labels_key="type")
    model = CplMixVAE(backed, n_categories=3, **QUICK)
    open_while_training = []

    def run(*given, **named):
        open_while_training.append(backed.file.is_open)
        return run_training(*given, **named)

    monkeypatch.setattr("cplmix_ray.api.run_training", run)
    assert model.train(max_steps=40)["acc"] < 0.6
    assert open_while_training == [mode == "r"]  # other processes cannot read what is open for writing
    assert backed.file.is_open
    backed.obs["found"] = model.get_assignments()
    backed.write_h5ad(tmp_path / "result.h5ad")
    backed.file.close()
    assert "found" in anndata.read_h5ad(tmp_path / "result.h5ad").obs


def test_a_known_state_is_scored(adata):
    cells = adata.copy()
    cells.obs["age"] = np.arange(120.0)
    metrics = CplMixVAE(cells, n_categories=3, state_key=("age",), **QUICK).train(max_steps=10)
    assert any(name.startswith("state_") for name in metrics)


# Errors and notes


def refusals(adata) -> dict:
    """Calls that are refused with messages in which the commands name options; what the Python message must name."""
    fractions = adata.copy()
    fractions.layers["counts"] = fractions.layers["counts"] * 0.5
    negative = anndata.AnnData(np.full((20, 5), -1.0, np.float32))
    few = adata[:2].copy()

    def trains(cells, **settings):
        return lambda: CplMixVAE(cells, **{**QUICK, **settings}).train(max_steps=2)

    return {
        "n_categories=3": trains(few, n_categories=3),
        "likelihood='gaussian'": trains(fractions, likelihood="nb"),
        "normalise='none'": trains(negative, normalise="log1p"),
        "labels_key=": lambda: CplMixVAE.setup_anndata(adata, labels_key="nothing"),
        "state_key=": trains(adata, state_key=("nothing",)),
        "encoder_view='whole'": trains(adata, encoder_view="content"),
        "copies='affine'": trains(adata, copies=("affine",)),
        "replicas=2": trains(adata, replicas=2, batch_size=33),
        "device='cuda'": trains(adata, device="cuda", engine="auto"),
        "genes=": trains(adata, genes="nothing.txt"),
        "model.n_arms": trains(adata, n_arms=0),
        "lr=": trains(adata, lr=1e30),
    }


@pytest.mark.parametrize("words", refusals(anndata.AnnData(np.ones((3, 2)), layers={"counts": np.ones((3, 2))})))
def test_errors_speak_python(adata, words, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises((InputError, TrainingError)) as refused:
        refusals(adata)[words]()
    assert words in str(refused.value)
    assert "--" not in str(refused.value)


def test_notes_are_warnings_at_the_line_of_the_user(adata):
    with pytest.warns(CplMixWarning, match="raw counts: cells are scaled") as warned:
        CplMixVAE(adata, n_categories=3, **QUICK).train(max_steps=2)
    assert warned[0].filename == __file__
    with pytest.warns(CplMixWarning, match="normalise='log1p' is usual"):
        CplMixVAE(adata, n_categories=3, normalise="none", **QUICK).train(max_steps=2)


def test_progress_is_shown_unless_it_is_switched_off_and_leaves_standard_output_alone(adata, capsys):
    model = CplMixVAE(adata, n_categories=3, log_every=1, **QUICK)
    model.train(max_steps=4)
    shown = capsys.readouterr()
    assert "step 4/4, 0 s left" in shown.err
    model.train(max_steps=4, progress=False)
    assert capsys.readouterr() == ("", "")
    assert shown.out == ""


def test_a_remark_on_the_result_is_a_warning(adata):
    with pytest.warns(CplMixWarning, match=r"of 40 categories contain cells; try .*="):
        CplMixVAE(adata, n_categories=40, **QUICK).train(max_steps=2)


def test_ignored_versions_of_genes_are_noted(adata, model):
    names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
    old, new = adata.copy(), adata.copy()
    old.var_names, new.var_names = names, [f"{name}.3" for name in names]
    model = CplMixVAE(old, n_categories=3, **QUICK)
    model.train(max_steps=2)
    with pytest.warns(CplMixWarning, match="versions"):
        assigned = model.get_assignments(new)
    np.testing.assert_array_equal(assigned, model.get_assignments())


# What is kept


def test_the_history_has_what_was_logged(adata):
    model = CplMixVAE(adata, n_categories=3, n_arms=2, log_every=5, evaluate_every=10, **QUICK)
    assert model.history.empty
    model.train(max_steps=20)
    assert list(model.history.index) == [5, 10, 15, 20]
    assert model.history.index.name == "step"
    assert model.history["loss/total"].notna().all()
    assert {"arm0/loss", "arm1/loss"} <= set(model.history)
    scored = model.history.filter(like="consensus/").dropna(how="all")
    assert list(scored.index) == [10, 20]
    model.train(max_steps=5)
    assert list(model.history.index) == [5]


def test_steps_that_are_repeated_are_in_the_history_once():
    history = History()
    for step in (1, 2, 3):
        history.add(step, {"loss": float(step)})
    history.add(3, {"acc": 0.5})
    history.go_back(1)
    history.add(2, {"loss": 9.0})
    table = history.table()
    assert table["loss"].to_dict() == {1: 1.0, 2: 9.0}
    assert table["acc"].isna().all()


def test_the_model_says_what_it_is(adata, model):
    assert repr(CplMixVAE(adata, n_categories=7)) == (
        "CplMixVAE(n_categories=7, n_arms=2) of 120 cells x 40 genes, not trained"
    )
    assert repr(model).endswith("trained for 150 steps")


def test_a_saved_model_keeps_its_scores_its_history_and_its_layer(tmp_path, adata, model):
    model.save(tmp_path / "saved")
    others = adata[::-1].copy()
    del others.uns["_cplmix_ray_setup"]
    loaded = CplMixVAE.load(tmp_path / "saved", others)
    assert loaded.metrics == model.metrics
    pd.testing.assert_frame_equal(loaded.history, model.history)
    np.testing.assert_array_equal(loaded.get_assignments(), model.get_assignments()[::-1])  # not those of X, all zeros
    assert loaded.get_assignments(adata).equals(model.get_assignments())


def test_the_commands_read_the_layer_of_a_saved_model(tmp_path, adata, model):
    model.save(tmp_path / "saved")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    given = {"--run": tmp_path / "saved", "--data": tmp_path / "cells.h5ad", "--out": tmp_path / "out.h5ad"}
    predict([str(word) for pair in given.items() for word in pair])
    found = anndata.read_h5ad(tmp_path / "out.h5ad").obs["cplmix_category"]
    np.testing.assert_array_equal(found, model.get_assignments())
    with pytest.raises(InputError, match="--data"):
        evaluate(["--run", str(tmp_path / "saved")])


def test_a_model_is_replaced_only_when_told_to(tmp_path, adata, model):
    folder = tmp_path / "saved"
    model.save(folder)
    (folder / "notes.txt").write_text("mine")
    other = CplMixVAE(adata, n_categories=5, **QUICK)
    other.train(max_steps=2)
    with pytest.raises(InputError, match=naming(folder, "overwrite=True")):
        other.save(folder)
    assert CplMixVAE.load(folder, adata).config.model.n_categories == 3
    other.save(folder, overwrite=True)  # of fewer steps than the old one
    assert CplMixVAE.load(folder, adata).config.model.n_categories == 5
    assert (folder / "notes.txt").read_text() == "mine"
    assert len(list((folder / "checkpoints").iterdir())) == 1
    other.save(tmp_path / "new", overwrite=True)
    assert CplMixVAE.load(tmp_path / "new", adata).config.model.n_categories == 5


def test_a_failed_replacement_leaves_the_old_model(tmp_path, adata, model, monkeypatch):
    model.save(tmp_path / "saved")

    def fail(*_):
        raise OSError(28, "No space left on device")

    other = CplMixVAE(adata, n_categories=5, **QUICK)
    other.train(max_steps=2)
    monkeypatch.setattr("cplmix_ray.checkpoints.checkpoint.write_file", fail)
    with pytest.raises(DiskError, match=naming(tmp_path / "saved")) as failed:
        other.save(tmp_path / "saved", overwrite=True)
    assert "--" not in str(failed.value)
    assert CplMixVAE.load(tmp_path / "saved", adata).config.model.n_categories == 3


def test_folders_of_others_are_never_replaced(tmp_path, model):
    run, lightning = tmp_path / "run", tmp_path / "lightning"
    model.save(run)
    (run / "config.yaml").write_text("seed: 1\n")
    (lightning / "checkpoints").mkdir(parents=True)
    (lightning / "checkpoints" / "epoch=1.ckpt").write_text("weights")
    for folder in (run, lightning):
        for overwrite in (False, True):
            with pytest.raises(InputError, match=naming(folder, "another path")):
                model.save(folder, overwrite=overwrite)
    assert (lightning / "checkpoints" / "epoch=1.ckpt").exists()
    shutil.rmtree(lightning / "checkpoints")
    model.save(lightning)
