"""The `cplmix` command: the same commands as `python -m cplmix_ray.NAME`."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import cplmix_ray
from cplmix_ray.cli.main import COMMANDS, main
from cplmix_ray.cli.parser import as_typed


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["cplmix", *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_every_entry_module_is_a_subcommand():
    folder = Path(cplmix_ray.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "api", "version"}
    assert set(COMMANDS) == modules


def test_the_installed_command_calls_it():
    (entry,) = metadata.entry_points(group="console_scripts", name="cplmix")
    assert entry.value == "cplmix_ray.cli.main:main"


def test_help_lists_the_subcommands(monkeypatch, capsys):
    assert run(monkeypatch) == run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_subcommand_has_the_options_of_its_module(monkeypatch, capsys, name):
    assert run(monkeypatch, name, "--help") == 0
    module = [sys.executable, "-m", f"cplmix_ray.{name}", "--help"]
    said = subprocess.run(module, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--[a-z][a-z-]+", said))
    assert options == set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) > {"--help"}


def test_an_unknown_subcommand_is_named(monkeypatch, capsys):
    assert run(monkeypatch, "trian", "--seed", "1") == 2
    assert "'trian'" in capsys.readouterr().err


def test_a_subcommand_gets_its_options(monkeypatch, capsys, tmp_path):
    words = ["simulate", "--types", "2", "--cells", "200", "--genes", "40", "--out", str(tmp_path / "cells.h5ad")]
    assert run(monkeypatch, *words) == 0
    assert (tmp_path / "cells.h5ad").exists()


@pytest.mark.parametrize(
    ("line", "word", "remedy"),
    [
        ("train --data x.h5ad --max-step 3", "--max-step", "--max-steps"),
        ("train --labels cell_type", "--labels", "--labels-key"),
        ("evaluate --runs my_run", "--runs", "--run"),  # although the option that is required is missing
        ("predict --run my_run --dat x.h5ad --out y.h5ad", "--dat", "--data"),
        ("train cells.h5ad", "'cells.h5ad'", "name of an option"),
        ("train --out my results", "'results'", "quotes"),
        ("train --n-categories ten", "'ten'", "whole number"),
        ("train --lr 1e-", "'1e-'", "is not a number"),
    ],
)
def test_a_mistyped_line_is_answered_with_the_word_and_the_remedy(monkeypatch, capsys, line, word, remedy):
    assert run(monkeypatch, *line.split()) == 2
    said = capsys.readouterr().err
    assert said.index(word) <= said.index(remedy)
    assert f"cplmix {line.split()[0]} --help" in said


def test_an_option_that_resembles_no_other_has_no_suggestion(monkeypatch, capsys):
    assert run(monkeypatch, "train", "--k", "3") == 2
    said = capsys.readouterr().err
    assert "--k" in said and "did you mean" not in said


def test_a_module_is_named_as_it_was_started(monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(Path(cplmix_ray.__file__).parent / "train.py")])
    assert as_typed("train") == "python -m cplmix_ray.train"


@pytest.mark.parametrize("line", ["simulate --types 2 --cells 200 --genes 40", "predict --run r --data cells.h5ad"])
@pytest.mark.parametrize("name", ["cells", "cells.csv", "h5ad"])
def test_a_file_of_cells_gets_a_name_by_which_it_can_be_read(monkeypatch, capsys, tmp_path, line, name):
    assert run(monkeypatch, *line.split(), "--out", str(tmp_path / name)) == 2
    assert ".h5ad" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_input_below_a_folder_that_may_not_be_entered_is_named(monkeypatch, capsys):
    def stat(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", stat)
    assert run(monkeypatch, "train", "--data", "theirs/cells.csv", "--n-categories", "3") == 2
    said = capsys.readouterr().err
    assert "theirs/cells.csv" in said and "owner" in said
