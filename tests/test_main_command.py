"""The `cplmix` command: the same commands as `python -m cplmix_ray.NAME`."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import cplmix_ray
from cplmix_ray.cli.main import COMMANDS, main


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
