"""Recipes that ship with the package: their names, the line over them, the wheel, and one from end to end."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

from cplmix_ray.cli.simulate_command import simulate
from cplmix_ray.cli.train_command import parse_train, train
from cplmix_ray.config import load_config, load_preset, preset_names
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
    assert config.alignment.align_steps < config.training.steps(1000)


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
    assert config.copies.neighbour_space == "ensemble"
    result = anndata.read_h5ad(out / "result.h5ad")
    assert result.obsm["cplmix_probs"].shape == (160, 4)
    types, found = result.obs["cell_type"].cat.codes.to_numpy(), result.obs["cplmix_category"].cat.codes.to_numpy()
    matched = max(np.mean(np.array(order)[found] == types) for order in itertools.permutations(range(4)))
    assert metrics["acc"] == pytest.approx(matched)
    # A run goes on with its own settings, without the recipe being named again.
    train(["--resume", "--out", str(out), "--max-steps", "24"])
    assert json.loads((out / "metrics.json").read_text())["steps"] == 24
    assert load_config(out / "config.yaml").model == config.model
