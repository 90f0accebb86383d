"""Recipes that ship with the package: their names, the line over them, the wheel, and one from end to end."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from cplmix_ray.cli.simulate_command import simulate
from cplmix_ray.cli.train_command import parse_train, train
from cplmix_ray.cli.tune_command import parse_tune
from cplmix_ray.config import load_config, load_preset, preset_names
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.utils.errors import InputError

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "cplmix_ray" / "presets").iterdir())


def test_every_recipe_has_its_name():
    assert preset_names() == sorted(path.stem for path in FILES) and FILES
    assert {path.suffix for path in FILES} == {".yaml"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_loads_by_name_from_its_file_and_on_the_line(path):
    config = load_preset(path.stem)
    assert config == load_config(path)
    assert parse_train(["--preset", path.stem]).settings == config
    assert parse_train([f"--preset={path.stem}"]).settings == config
    n_steps = config.training.steps(1000)
    assert config.alignment.steps(n_steps) < n_steps


def test_an_unknown_recipe_is_one_sentence_with_the_names_and_status_2(tmp_path):
    line = [sys.executable, "-m", "cplmix_ray.train", "--preset", "digits-like-name", "--out", str(tmp_path / "run")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert all(name in done.stderr for name in ("'digits-like-name'", *preset_names()))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", "../presets/cells", "cells.yaml", "CELLS", "/etc/passwd"])
def test_names_are_no_paths(name):
    with pytest.raises(InputError, match=", ".join(preset_names())):
        load_preset(name)


def test_a_recipe_and_a_file_together_are_refused(tmp_path):
    (tmp_path / "few.yaml").write_text("seed: 1\n")
    for line in (["--preset", "cells", "--config", str(tmp_path / "few.yaml")], ["--config=a.yaml", "--preset=cells"]):
        with pytest.raises(InputError, match=r"--preset.*--config"):
            parse_train(line)


def test_the_line_goes_before_the_recipe_and_the_recipe_before_the_defaults():
    recipe = load_preset("mnist")
    line = ["--n-arms", "3", "--preset", "mnist", "--lr", "0.25", "--overcluster", "1", "--align-steps", "0"]
    settings = parse_train(line).settings
    assert (settings.model.n_arms, settings.training.lr, settings.model.overcluster) == (3, 0.25, 1)
    assert settings.alignment.align_steps == 0
    assert settings.objective == recipe.objective
    assert settings.copies == recipe.copies


def test_the_wheel_holds_the_recipes(tmp_path):
    """What setuptools would copy beside the modules, asked in a process of its own."""
    code = (
        "import json, warnings; warnings.simplefilter('ignore')\n"
        "from setuptools.dist import Distribution\n"
        "dist = Distribution({'script_name': 'setup.py'}); dist.parse_config_files(['pyproject.toml'])\n"
        "build = dist.get_command_obj('build_py'); build.build_lib = 'nowhere'; build.ensure_finalized()\n"
        "found = build.get_data_files_without_manifest()\n"
        "print(json.dumps([f'{package}/{name}' for package, _, _, names in found for name in names]))\n"
    )
    pytest.importorskip("setuptools")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {Path(name).name for name in json.loads(done.stdout.splitlines()[-1])}
    assert {path.name for path in FILES} <= found


def test_the_recipe_for_cells_from_a_simulated_file_to_a_result(tmp_path):
    pytest.importorskip("scanpy")
    data, out = str(tmp_path / "sim.h5ad"), tmp_path / "run"
    simulate(["--out", data, "--types", "4", "--cells", "160", "--genes", "120", "--seed", "1"])
    line = ["--preset", "cells", "--data", data, "--labels-key", "cell_type", "--n-categories", "4", "--hvg", "100"]
    few = ["--align-steps", "10", "--max-steps", "20", "--engine", "local", "--threads", "1", "--batch-size", "64"]
    train([*line, *few, "--out", str(out)])
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["steps"], metrics["n_categories"], metrics["n_cells"]) == (20, 4, 160)
    config = load_config(out / "config.yaml")
    assert (config.alignment.align_steps, config.input.hvg) == (10, 100)
    assert config.alignment.align_guess == load_preset("cells").alignment.align_guess > 0
    assert (config.copies.neighbour_space, config.clustered_by) == ("clustering", "mixtures")
    result = anndata.read_h5ad(out / "result.h5ad")
    assert result.obsm["cplmix_probs"].shape == (160, 4)
    types, found = result.obs["cell_type"].cat.codes.to_numpy(), result.obs["cplmix_category"].cat.codes.to_numpy()
    matched = max(np.mean(np.array(order)[found] == types) for order in itertools.permutations(range(4)))
    assert metrics["acc"] == pytest.approx(matched)
    # A run goes on with its own settings, without the recipe being named again.
    train(["--resume", "--out", str(out), "--max-steps", "24"])
    assert json.loads((out / "metrics.json").read_text())["steps"] == 24
    assert load_config(out / "config.yaml").model == config.model


@pytest.fixture(scope="module")
def counts(tmp_path_factory) -> str:
    """150 cells of three types, Poisson counts of 60 genes."""
    rng = np.random.default_rng(0)
    rates, types = rng.gamma(1, 3, (3, 60)), np.repeat([0, 1, 2], 50)
    adata = anndata.AnnData(sp.csr_matrix(rng.poisson(rates[types]).astype(np.float32)))
    adata.obs["cell_type"] = [f"t{t}" for t in types]
    path = str(tmp_path_factory.mktemp("cells") / "counts.h5ad")
    adata.write_h5ad(path)
    return path


def _archive(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "images.npz", **arrays)
    return str(folder / "images.npz")


def test_without_settings_the_preset_is_that_of_the_data(tmp_path, counts):
    images = _archive(tmp_path, x=np.zeros((4, 8, 8), np.uint8))
    for data, preset in ((counts, "cells"), ("cells.csv", "cells"), (images, "mnist"), ("dsprites", "dsprites")):
        if data == "cells.csv":
            (tmp_path / data).write_text(",g1\nc1,1\n")
            data = str(tmp_path / data)
        expected = load_preset(preset).with_settings(input={"data": data})
        for line in (["--data", data], [f"--data={data}"]):
            assert parse_train(line).settings == expected
        assert parse_tune(["--data", data])[1].run.objective == expected.objective
    assert parse_train([]).settings == load_preset("mnist")


def test_sprites_in_their_original_layout_have_the_preset_for_sprites(tmp_path):
    data = _archive(tmp_path, imgs=np.zeros((2, 8, 8), np.uint8), latents_classes=np.zeros((2, 6), int))
    assert parse_train(["--data", data]).settings.model.encoder_view == "content"


def test_the_published_objective_is_a_preset_and_what_a_file_without_preset_starts_from(tmp_path, counts):
    assert load_preset("published") == CplMixVAEConfig()
    data = ["--data", counts]
    assert parse_train([*data, "--preset", "published"]).settings.objective == CplMixVAEConfig().objective
    (tmp_path / "few.yaml").write_text("model: {n_arms: 3}\n")
    assert (
        parse_train([*data, "--config", str(tmp_path / "few.yaml")]).settings.objective == CplMixVAEConfig().objective
    )


def test_a_file_can_name_the_preset_that_it_starts_from(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("preset: cells\nmodel: {n_arms: 3}\nseed: 4\n")
    found, cells = load_config(path), load_preset("cells")
    assert found == cells.with_settings(model={"n_arms": 3}).model_copy(update={"seed": 4})
    path.write_text("run: {preset: cells, training: {max_steps: 7}}\nspace: {objective.lam: {choice: [1.0, 2.0]}}\n")
    assert load_config(path) == cells.with_settings(training={"max_steps": 7})
    for wrong in ("preset: cell\n", "preset: 3\n", "preset: cells\nmodel: 3\n"):
        path.write_text(wrong)
        with pytest.raises(InputError):
            load_config(path)


def test_an_unreadable_file_is_refused_before_a_preset_is_chosen(tmp_path):
    for name in ("missing.h5ad", "missing.npz", "cells.unknown"):
        with pytest.raises(InputError, match=name):
            train(["--data", str(tmp_path / name), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_the_default_run_on_cells_says_its_preset_and_finds_the_types(tmp_path, counts, capsys):
    line = ["--data", counts, "--labels-key", "cell_type", "--engine", "local", "--threads", "1", "--max-steps", "60"]
    train([*line, "--n-categories", "3", "--out", str(tmp_path / "run")])
    lines = capsys.readouterr().out.splitlines()
    assert "Preset cells" in lines[0] and "--preset published" in lines[0]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["acc"] > 0.95
    # Both stages are there although the run is shorter than the first stage of the preset's own run.
    assert load_config(tmp_path / "run" / "config.yaml").alignment.align_steps == 24
    train([*line, "--out", str(tmp_path / "other"), "--max-steps", "10"])
    assert any("--n-categories is not given" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("line", [[], ["--preset", "cells", "--n-categories", "3"]], ids=["as it was", "preset again"])
def test_a_longer_resumed_run_keeps_the_length_of_its_first_stage(tmp_path, counts, line):
    few = ["--data", counts, "--engine", "local", "--threads", "1", "--out", str(tmp_path / "run")]
    train([*few, "--n-categories", "3", "--max-steps", "20"])
    train(["--resume", *few, *line, "--max-steps", "30"])
    assert load_config(tmp_path / "run" / "config.yaml").alignment.align_steps == 8


def test_a_run_that_ends_within_the_first_stage_says_that_the_state_is_not_trained(tmp_path, counts, capsys):
    line = ["--data", counts, "--n-categories", "3", "--engine", "local", "--threads", "1", "--max-steps", "10"]
    train([*line, "--align-steps", "10", "--out", str(tmp_path / "run")])
    assert "--align-steps" in capsys.readouterr().out


@pytest.mark.parametrize("steps", ["1.5", "-1", "nan", "-0.5"])
def test_the_first_stage_is_a_number_of_steps_or_a_share(steps):
    with pytest.raises(InputError, match="align"):
        parse_train(["--align-steps", steps])
    assert parse_train(["--align-steps", "0.25"]).settings.alignment.steps(100) == 25
