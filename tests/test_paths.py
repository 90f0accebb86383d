"""Paths with home folders, letters that the terminal lacks, and names that no file can have; closed pipes."""

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest

from cplmix_ray.api import CplMixVAE
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli import exits
from cplmix_ray.config import load_config
from cplmix_ray.config.files import parse_config
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.home import expand_home
from cplmix_ray.utils.output_lock import lock_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def arguments_after(monkeypatch, *args):
    """What a command gets of the arguments of its process."""
    got = []
    monkeypatch.setattr(sys, "argv", ["command", *args])
    exits.run_command(got.extend)
    return got


def test_home_folders_are_expanded_in_all_options(home, monkeypatch):
    given = ["--out=~/x", "--run", "~/x/", "~/c.yaml", "--data=a.csv,~/b.csv", "--lr=0.1", "--labels-key=a~/b", "x=~/y"]
    assert arguments_after(monkeypatch, *given) == [
        *(f"--out={home}/x", "--run", f"{home}/x/", f"{home}/c.yaml", f"--data=a.csv,{home}/b.csv"),
        *("--lr=0.1", "--labels-key=a~/b", "x=~/y"),
    ]


def test_the_home_folder_of_another_user_is_expanded(monkeypatch):
    import pwd

    user = pwd.getpwuid(os.getuid())
    assert arguments_after(monkeypatch, f"--out=~{user.pw_name}/x") == [f"--out={user.pw_dir}/x"]
    assert arguments_after(monkeypatch, "--out=~no-such-user/x") == ["--out=~no-such-user/x"]


@pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")
def test_home_folders_are_expanded_in_yaml_files_and_in_python(home, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("input: {data: ~/a.h5ad, metadata: ~/m.csv, genes: ~/g.txt}\ncopies: {augmenter: ~/augmenter}\n")
    config = load_config(file)
    assert (config.input.data, config.input.metadata) == (f"{home}/a.h5ad", f"{home}/m.csv")
    assert (config.input.genes, config.copies.augmenter) == (f"{home}/g.txt", f"{home}/augmenter")
    assert Simulation(tree=Path("~/tree.csv")).tree == f"{home}/tree.csv"
    assert CplMixVAE(anndata.AnnData(np.ones((2, 2))), genes=Path("~/g.txt")).config.input.genes == f"{home}/g.txt"
    assert RunFolder("~/x").path == RunFolder(Path("~/x")).path == Path(home) / "x"


def test_a_home_folder_that_is_not_known_is_named(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME and without an entry in passwd
    for path in ("~", "~/x"):
        with pytest.raises(InputError, match="home"):
            expand_home(path)
    with pytest.raises(InputError, match="home"):
        parse_config({"input": {"data": "~/a.h5ad"}})


@pytest.mark.parametrize("name", ["x" * 300, "file/x", "file"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="Cannot write"), lock_folder(tmp_path / name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    code = f"from cplmix_ray.cli.exits import run_command\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, encoding="ascii"
    )


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_letters_that_the_terminal_lacks_are_escaped(environment):
    environment = {"PYTHONCOERCECLOCALE": "0", **environment}
    done = run_python("run_command(lambda args: print('Results are in \\xe9\\udcc3.'))", **environment)
    assert (done.stdout, done.stderr, done.returncode) == ("Results are in \\xe9\\udcc3.\n", "", 0)


def closed_early(code: str) -> tuple[int, bytes]:
    """Status and error output of a command whose standard output is closed at its other end."""
    reading, writing = os.pipe()
    code = f"from cplmix_ray.cli.exits import run_command\n{code}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        os.close(reading)
        told = process.stderr.read()
    return process.returncode, told


def test_a_closed_pipe_ends_a_command_without_a_word():
    assert closed_early("run_command(lambda args: print('x' * 100_000, flush=True))") == (1, b"")


def test_a_closed_pipe_does_not_end_a_run():
    shown = "from cplmix_ray.utils.progress import Display\ndisplay = Display()\n"
    status, told = closed_early(f"{shown}run_command(lambda args: [display.say('x') for _ in range(3)])")
    assert status == 0
    assert len(told.splitlines()) == 1
    assert b"run continues" in told
