"""Input that cannot be used: exit status 2, one line that names the thing, and nothing left behind."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from refusals import (
    CELLS,
    GENES,
    assert_named,
    cells,
    line_of,
    refused,
    refused_training,
    saved,
    tree_of,
    with_value,
)

from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.distributed.plan import Devices
from cplmix_ray.utils.errors import InputError, TrainingError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, so that a default output folder would show in it too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


# Files


@pytest.mark.parametrize("name", ["nowhere.h5ad", "nowhere.npz"])
def test_a_missing_file(folder, name):
    assert_named(refused_training(folder, folder / name), folder / name)


def test_a_truncated_h5ad(folder):
    whole = saved(cells(), folder / "cells.h5ad").read_bytes()
    (folder / "cells.h5ad").write_bytes(whole[: len(whole) // 2])
    assert_named(refused_training(folder, folder / "cells.h5ad"), folder / "cells.h5ad", "truncated")


@pytest.mark.parametrize("content", [b"", b"gene_0,gene_1\n1,2\n"], ids=["empty", "text"])
@pytest.mark.parametrize("suffix", ["h5ad", "npz"])
def test_a_file_of_another_kind(folder, content, suffix):
    path = folder / f"cells.{suffix}"
    path.write_bytes(content)
    assert_named(refused_training(folder, path), path)


def test_an_hdf5_file_that_is_no_anndata(folder):
    with h5py.File(folder / "cells.h5ad", "w") as file:
        file["spectra"] = np.ones((3, 3))
    assert_named(refused_training(folder, folder / "cells.h5ad"), folder / "cells.h5ad")


def test_a_folder_in_place_of_a_file(folder):
    (folder / "cells.h5ad").mkdir()
    assert_named(refused_training(folder, folder / "cells.h5ad"), folder / "cells.h5ad")


def test_an_unknown_suffix(folder):
    (folder / "cells.bam").write_text("")
    assert_named(refused_training(folder, folder / "cells.bam"), "cells.bam", ".h5ad", ".npz")


def test_an_npz_with_pickled_objects(folder):
    np.savez(folder / "images.npz", x=np.array([{"a": 1}] * 9, dtype=object))
    assert_named(refused_training(folder, folder / "images.npz"), folder / "images.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["plain", "compressed"])
@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_npz(folder, save, damage):
    path = folder / "images.npz"
    save(path, x=np.random.default_rng(0).integers(0, 99, (50, 8, 8)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if damage == "truncated":
        del content[middle:]
    else:
        content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    assert_named(refused_training(folder, path), path)


# Cells


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("sparse", "layer"), [(True, None), (False, "spliced")], ids=["sparse X", "dense layer"])
def test_values_that_are_not_finite_are_named_with_cell_and_gene(folder, sparse, value, layer):
    data = saved(with_value(value, sparse, layer), folder / "cells.h5ad")
    words = [] if layer is None else ["--layer", layer]
    assert_named(refused_training(folder, data, *words), "cells.h5ad", "'cell_7'", "'gene_4'")


@pytest.mark.parametrize(("value", "words"), [(-2.0, "-2"), (1.5, "whole")])
@pytest.mark.parametrize(("sparse", "likelihood"), [(True, "nb"), (False, "zinb")], ids=["sparse nb", "dense zinb"])
def test_values_that_are_no_counts_for_a_count_likelihood(folder, sparse, value, words, likelihood):
    data = saved(with_value(value, sparse), folder / "cells.h5ad")
    assert_named(refused_training(folder, data, "--likelihood", likelihood), words, likelihood, "--layer")


def test_negative_values_cannot_be_normalised(folder):
    data = saved(with_value(-2.0), folder / "cells.h5ad")
    assert_named(refused_training(folder, data, "--normalise", "log1p"), "negative", "--normalise none")


def test_an_unknown_layer_is_named_and_so_are_those_there_are(folder):
    data = saved(cells(), folder / "cells.h5ad")
    assert_named(refused_training(folder, data, "--layer", "unspliced"), "'unspliced'", " spliced")


def test_an_unknown_column_of_labels_is_named_and_so_are_those_there_are(folder):
    data = saved(cells(), folder / "cells.h5ad")
    assert_named(refused_training(folder, data, "--labels-key", "celltype"), "'celltype'", " cell_type")


def test_more_categories_than_cells(folder):
    data = saved(cells(), folder / "cells.h5ad")
    line = refused_training(folder, data, "--n-categories", str(CELLS + 1))
    assert_named(line, f"{CELLS} cells", f"--n-categories {CELLS + 1}")


def test_two_genes_of_one_name(folder):
    adata = cells()
    adata.var_names = ["gene_0", "twice", "twice", *adata.var_names[3:]]
    line = refused_training(folder, saved(adata, folder / "cells.h5ad"))
    assert_named(line, "'twice'", "var_names_make_unique")


@pytest.mark.parametrize("shape", [(0, GENES), (CELLS, 0)], ids=["no cells", "no genes"])
def test_an_empty_object(folder, shape):
    data = saved(cells()[: shape[0], : shape[1]].copy(), folder / "cells.h5ad")
    assert_named(refused_training(folder, data), "cells.h5ad", f"{shape[0]} cells", f"{shape[1]} genes")


def test_an_object_without_x(folder):
    adata = cells()
    adata.X = None
    assert_named(refused_training(folder, saved(adata, folder / "cells.h5ad")), "cells.h5ad", " X", "--layer")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--likelihood", "bernoulli"], ["bernoulli", "images"]),
        (["--copies", "affine"], ["--copies affine", "log-expression"]),
        (["--copies", "neighbours", "thinning"], ["--copies thinning", "log-expression"]),
        (["--likelihood", "nb", "--normalise", "log1p"], ["nb", "--normalise log1p"]),
    ],
    ids=lambda item: " ".join(item),
)
def test_settings_that_do_not_fit_cells(folder, words, named):
    assert_named(refused_training(folder, saved(cells(), folder / "cells.h5ad"), *words), *named)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--likelihood", "nb"], ["nb", "counts"]),
        (["--hvg", "10"], ["--hvg"]),
        (["--layer", "spliced"], ["'spliced'", "--layer"]),
        (["--labels-key", "cell_type"], ["'cell_type'"]),
        (["--copies", "gene_dropout"], ["--copies gene_dropout", "images"]),
    ],
    ids=lambda item: " ".join(item),
)
def test_settings_that_do_not_fit_images(folder, words, named):
    assert_named(refused_training(folder, "digits", *words), *named)


# Devices


@pytest.fixture
def two_cores(monkeypatch):
    """Whatever this machine has; a Ray that is already there has its own few."""
    monkeypatch.setattr("cplmix_ray.distributed.engines.local_devices", lambda: Devices(0, 2, "this machine"))


def test_more_workers_than_the_machine_holds(folder, two_cores):
    words = ["--engine", "ray", "--n-arms", "64", "--arms-per-worker", "1"]
    line = refused_training(folder, "digits", *words, "--n-categories", "10")
    assert_named(line, "64", "--arms-per-worker", "--engine local")


def test_a_gpu_where_there_is_none(folder, two_cores):
    assert_named(refused_training(folder, "digits", "--device", "cuda"), "--device cuda", "GPU")


# Output


def test_an_output_folder_below_a_file(folder):
    (folder / "notes.txt").write_text("mine")
    line = refused(train, folder, line_of("--data", "digits", "--out", str(folder / "notes.txt" / "sub")))
    assert_named(line, folder / "notes.txt" / "sub", "--out")


def test_an_output_folder_that_is_a_file(folder):
    (folder / "notes.txt").write_text("mine")
    line = refused(train, folder, line_of("--data", "digits", "--out", str(folder / "notes.txt")))
    assert_named(line, folder / "notes.txt", "--out")


def test_an_output_folder_that_may_not_be_written(folder):
    if os.geteuid() == 0:
        pytest.skip("permissions do not bind root")
    (folder / "locked").mkdir(mode=0o500)
    line = refused(train, folder, line_of("--data", "digits", "--out", str(folder / "locked" / "sub")))
    assert_named(line, folder / "locked" / "sub", "--out")


# Settings


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: {n_armz: 3}\n", ["settings.yaml", "model.n_armz"]),
        ("modell: {n_arms: 3}\n", ["settings.yaml", "modell"]),
        ("training: {lr: -1}\n", ["settings.yaml", "training.lr", "0"]),
        ("model: {hidden: [8, 0]}\n", ["settings.yaml", "model.hidden"]),
        ("seed: lucky\n", ["settings.yaml", "seed"]),
        ("model: {n_arms: 3\n", ["settings.yaml", "line 2"]),
        ("model:\n\tn_arms: 3\n", ["settings.yaml", "line 2"]),
        ("- model\n", ["settings.yaml"]),
    ],
    ids=["unknown name", "unknown section", "range", "range in a list", "type", "brace", "tab", "list"],
)
def test_a_settings_file_that_cannot_be_used(folder, text, named):
    (folder / "settings.yaml").write_text(text)
    assert_named(refused_training(folder, "digits", "--config", str(folder / "settings.yaml")), *named)


def test_a_settings_file_that_is_no_text(folder):
    (folder / "settings.yaml").write_bytes(bytes(range(256)))
    assert_named(refused_training(folder, "digits", "--config", str(folder / "settings.yaml")), "settings.yaml")


def test_a_missing_settings_file(folder):
    line = refused_training(folder, "digits", "--config", str(folder / "nowhere.yaml"))
    assert_named(line, folder / "nowhere.yaml")


def test_a_folder_in_place_of_a_settings_file(folder):
    assert_named(refused_training(folder, "digits", "--config", str(folder)), folder)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--n-armz", "3"], "--n-armz"),
        (["stray"], "stray"),
        (["--n-arms", "many"], "--n-arms"),
        (["--n-arms", "2.5"], "--n-arms"),
        (["--n-arms"], "--n-arms"),
        (["--likelihood", "poisson"], "--likelihood"),
        (["--shared-parameters"], "--shared-parameters"),
        (["--shared-parameters", "maybe"], "--shared-parameters"),
        (["--tau", "-1"], "tau"),
        (["--seed", "-1"], "seed"),
        (["--max-steps", "0"], "max.steps"),
        (["--hidden", "8", "-3"], "hidden"),
        (["--copies", "auto", "affine"], "copies"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
def test_a_line_that_cannot_be_used(folder, words, named):
    line = refused(train, folder, line_of("--data", "digits", "--out", str(folder / "out"), *words))
    assert re.search(named, line), line


@pytest.mark.parametrize(
    ("function", "words", "named"),
    [
        (predict, ["--run", "run", "--data", "cells.h5ad"], "--out"),
        (predict, ["--run", "run", "--data", "a.h5ad", "--out", "b.h5ad", "--key", "mine"], "--key"),
        (evaluate, [], "--run"),
        (evaluate, ["--run", "run", "--labels", "cell_type"], "--labels"),
    ],
    ids=["predict without --out", "predict --key", "evaluate without --run", "evaluate --labels"],
)
def test_a_line_of_the_other_commands_that_cannot_be_used(folder, function, words, named):
    assert named in refused(function, folder, words)


def test_resume_without_out(folder):
    assert_named(refused(train, folder, line_of("--data", "digits", "--resume")), "--resume", "--out")


# A folder that holds a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of two steps; tests leave it as it is."""
    home = tmp_path_factory.mktemp("trained")
    data = saved(cells(), home / "cells.h5ad")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(sys, "argv", ["command", *line_of("--data", str(data), "--out", str(home / "run"))])
        run_command(train)
    return home


def resume_line(trained: Path, *words: str) -> list[str]:
    words = (*words, *(["--data", str(trained / "cells.h5ad")] if "--data" not in words else []))
    return line_of("--out", str(trained / "run"), "--resume", *words)


def test_a_run_is_not_overwritten(folder, trained):
    words = line_of("--data", str(trained / "cells.h5ad"), "--out", str(trained / "run"))
    assert_named(refused(train, trained, words), trained / "run", "--resume")
    assert tree_of(folder) == {}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--lr", "0.5"], ["training.lr"]),
        (["--seed", "1"], ["seed"]),
        (["--n-categories", "5", "--lam", "2"], ["model.n_categories", "objective.lam"]),
        (["--n-neighbours", "3", "--val-fraction", "0.2"], ["input.val_fraction", "copies.n_neighbours"]),
    ],
    ids=lambda item: " ".join(item),
)
def test_a_run_does_not_go_on_with_other_settings(folder, trained, words, named):
    line = refused(train, trained, resume_line(trained, *words))
    assert_named(line, trained / "run", *named)
    # Those that may change, or did not, are not blamed.
    assert "max_steps" not in line
    assert "input.data" not in line


@pytest.mark.parametrize("other", ["cells", "genes"])
def test_a_run_does_not_go_on_with_other_cells(folder, trained, other):
    adata = cells()
    adata = adata[:-1].copy() if other == "cells" else adata[:, ::-1].copy()
    data = saved(adata, folder / "other.h5ad")
    line = refused(train, trained, resume_line(trained, "--data", str(data)))
    assert_named(line, trained / "run", data)


@pytest.mark.parametrize("function", [predict, evaluate], ids=["predict", "evaluate"])
@pytest.mark.parametrize("place", ["nowhere", "empty", "a file"])
def test_a_folder_without_a_run(folder, trained, function, place):
    run = folder / "run"
    if place == "empty":
        run.mkdir()
    elif place == "a file":
        run.write_text("mine")
    words = ["--run", run, "--data", trained / "cells.h5ad", "--out", folder / "out" / "scores.h5ad"]
    assert_named(refused(function, folder, words), run, "checkpoint")


def test_a_run_of_which_no_checkpoint_is_whole(folder, trained):
    damaged = folder / "run" / "checkpoints" / "step-00000002"
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{")
    line = refused(evaluate, folder, ["--run", folder / "run", "--data", trained / "cells.h5ad"])
    assert_named(line, folder / "run", "step-00000002")


# New cells


def predict_line(folder: Path, trained: Path, adata: anndata.AnnData) -> list:
    data = saved(adata, folder / "new.h5ad")
    return ["--run", trained / "run", "--data", data, "--out", folder / "out" / "annotated.h5ad"]


def test_cells_that_lack_genes_of_the_model(folder, trained):
    lacking = [f"gene_{i}" for i in range(GENES) if i not in (3, 9)]
    line = refused(predict, folder, predict_line(folder, trained, cells()[:, lacking].copy()))
    assert_named(line, "new.h5ad", " 2 of ", GENES, "'gene_3'")


def test_evaluating_cells_that_lack_genes_of_the_model(folder, trained):
    data = saved(cells()[:, :5].copy(), folder / "new.h5ad")
    line = refused(evaluate, folder, ["--run", trained / "run", "--data", data, "--out", folder / "scores.json"])
    assert_named(line, "new.h5ad", "'gene_5'")


def test_new_values_that_are_not_finite(folder, trained):
    line = refused(predict, folder, predict_line(folder, trained, with_value(np.nan)))
    assert_named(line, "new.h5ad", "'cell_7'", "'gene_4'")


def test_new_values_that_cannot_be_normalised_as_the_training_cells_were(folder, trained):
    """Centred values have negative library sizes and no logarithm; what a model says of them means nothing."""
    line = refused(predict, folder, predict_line(folder, trained, with_value(-2.0)))
    assert_named(line, "new.h5ad", "negative")


def test_no_new_cells(folder, trained):
    line = refused(predict, folder, predict_line(folder, trained, cells()[:0].copy()))
    assert_named(line, "new.h5ad", "empty")


def test_images_for_a_model_of_cells(folder, trained):
    words = ["--run", trained / "run", "--data", "digits", "--out", folder / "annotated.h5ad"]
    assert_named(refused(predict, folder, words), "cells", "digits")


def test_a_layer_that_new_cells_do_not_have(folder, trained):
    line = refused(predict, folder, [*predict_line(folder, trained, cells()), "--layer", "unspliced"])
    assert_named(line, "new.h5ad", "'unspliced'")


def test_missing_new_cells(folder, trained):
    words = ["--run", trained / "run", "--data", folder / "nowhere.h5ad", "--out", folder / "out.h5ad"]
    assert_named(refused(predict, folder, words), folder / "nowhere.h5ad")


@pytest.mark.parametrize("function", [predict, evaluate], ids=["predict", "evaluate"])
def test_results_that_cannot_be_written(folder, trained, function):
    (folder / "notes.txt").write_text("mine")
    words = ["--run", trained / "run", "--data", trained / "cells.h5ad", "--out", folder / "notes.txt" / "out"]
    assert_named(refused(function, folder, words), folder / "notes.txt", "--out")


@pytest.mark.parametrize("function", [predict, evaluate], ids=["predict", "evaluate"])
def test_results_in_the_place_of_a_folder(folder, trained, function):
    (folder / "out").mkdir()
    words = ["--run", trained / "run", "--data", trained / "cells.h5ad", "--out", folder / "out"]
    assert_named(refused(function, folder, words), folder / "out")


def test_labels_that_the_cells_do_not_have(folder, trained):
    words = ["--run", trained / "run", "--labels-key", "celltype", "--out", folder / "scores.json"]
    assert_named(refused(evaluate, folder, words), "'celltype'", " cell_type")


def test_evaluate_with_a_missing_settings_file(folder, trained):
    words = ["--run", trained / "run", "--config", folder / "nowhere.yaml", "--out", folder / "scores.json"]
    assert_named(refused(evaluate, folder, words), folder / "nowhere.yaml")


def test_evaluate_when_the_cells_have_gone(folder, trained):
    """The run remembers where they were."""
    (folder / "settings.yaml").write_text(f"input: {{data: {folder / 'gone.h5ad'}}}\n")
    words = ["--run", trained / "run", "--config", folder / "settings.yaml", "--out", folder / "scores.json"]
    assert_named(refused(evaluate, folder, words), folder / "gone.h5ad")


# The way out of the process


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InputError("The cells are gone."), 2, "error: The cells are gone."),
        (TrainingError("The loss is gone."), 1, "error: The loss is gone."),
        (OSError(28, "No space left on device", "result.h5ad"), 1, "No space left on device: result.h5ad"),
        (OSError("no reason given"), 1, "no reason given"),
        (KeyboardInterrupt(), 1, "--resume"),
    ],
    ids=["input", "training", "disk", "unknown", "interrupt"],
)
def test_errors_have_one_line_and_a_status(folder, error, status, words):
    def command(_args):
        raise error

    assert words in refused(command, folder, [], status)


def test_training_that_fails_for_another_reason_ends_with_one(folder):
    """Here something is left: the folder says with which settings it failed."""
    words = line_of("--data", "digits", "--out", str(folder / "out"), "--lr", "1e30", "--max-steps", "20")
    stderr = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(stderr),
    ):
        patch.setattr(sys, "argv", ["command", *words])
        with pytest.raises(SystemExit) as left:
            run_command(train)
    assert left.value.code == 1
    assert re.fullmatch(r"error: .* at step \d+.* --lr .*\n", stderr.getvalue())
    assert (folder / "out" / "config.yaml").exists()
    assert not (folder / "out" / "result.h5ad").exists()
    assert not (folder / "out" / "metrics.json").exists()


def test_a_process_of_its_own_says_the_same(folder):
    """No test stands between it and its stderr."""
    words = line_of("--data", "digits", "--out", "out", "--n-armz", "3")
    # Warnings are then what users see by default, whatever the tests are run with.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    ended = subprocess.run(
        [sys.executable, "-m", "cplmix_ray.train", *words], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "--n-armz" in ended.stderr
    assert list(folder.iterdir()) == []
