"""Two processes with one output folder or file: one works there, the other is refused at once."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pytest

from cplmix_ray.api import CplMixVAE
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.simulate_command import simulate
from cplmix_ray.cli.train_command import train
from cplmix_ray.cli.tune_command import tune
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_file, lock_folder

HOLD = """
import sys, time
from pathlib import Path
from cplmix_ray.utils import output_lock
start = Path(sys.argv[3])
while not start.exists():
    time.sleep(0.001)
try:
    with getattr(output_lock, sys.argv[1])(Path(sys.argv[2])):
        print("held", flush=True)
        sys.stdin.read()
except Exception as error:
    print(type(error).__name__, flush=True)
"""


def start_holder(kind: str, path: Path, start: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, kind, str(path), str(start)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def held(tmp_path, request):
    """A folder or file that another process holds, and that process."""
    path = tmp_path / "out.h5ad"
    with start_holder(getattr(request, "param", "lock_folder"), path, tmp_path) as holder:
        assert holder.stdout.readline() == "held\n"
        yield path, holder
        holder.kill()


def test_one_of_several_processes_that_start_together_has_the_folder(tmp_path):
    start, folder = tmp_path / "start", tmp_path / "deep" / "out"
    holders = [start_holder("lock_folder", folder, start) for _ in range(4)]
    start.touch()
    said = sorted(holder.stdout.readline().strip() for holder in holders)
    assert said == ["InputError", "InputError", "InputError", "held"]
    for holder in holders:
        holder.communicate("")
    assert not [each for each in tmp_path.rglob("*") if each.is_file() and each != start]


@pytest.mark.parametrize("command", [train, tune])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_command_does_not_write_into_a_folder_in_use(held, command, resume):
    path, holder = held
    for name in ("config.yaml", "search.yaml"):
        (path / name).write_text("space: {model.n_arms: {grid: [1, 2]}}\n" if name == "search.yaml" else "")
    begun = time.monotonic()
    with pytest.raises(InputError, match=str(holder.pid)):
        command(["--out", str(path), *resume])
    assert time.monotonic() - begun < 2
    assert {each.name for each in path.iterdir()} == {".lock", "config.yaml", "search.yaml"}


@pytest.mark.parametrize("held", ["lock_file"], indirect=True)
@pytest.mark.parametrize("command", [predict, simulate])
def test_a_command_does_not_write_a_file_in_use(held, command):
    path, holder = held
    cells = ["--run", "nowhere", "--data", "digits"] if command is predict else []
    with pytest.raises(InputError, match=str(holder.pid)):
        command(["--out", str(path), *cells])
    assert not path.exists()


@pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")
def test_a_model_is_not_saved_into_a_folder_in_use(held):
    path, holder = held
    model = CplMixVAE(anndata.AnnData(np.random.default_rng(0).poisson(2.0, (40, 8)).astype("f4")), n_categories=2)
    model.train(max_steps=1, engine="local")
    with pytest.raises(InputError, match=str(holder.pid)):
        model.save(path)
    assert [each.name for each in path.iterdir()] == [".lock"]


def test_a_killed_process_leaves_a_folder_that_can_be_used(held):
    path, holder = held
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock_folder(path):
        pass
    assert not list(path.iterdir())


def test_what_was_written_stays_and_the_lock_does_not(tmp_path):
    with lock_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").touch()
    with lock_file(tmp_path / "c" / "file"):
        pass
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/b", "a/b/kept"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_used_and_named(tmp_path, monkeypatch, code):
    def flock(file, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = []
    with lock_folder(tmp_path / "out", said.append):
        (tmp_path / "out" / "kept").touch()
    assert [str(tmp_path / "out") in line for line in said] == [True]


def test_a_lock_whose_file_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    """The last user removes the file between the moments when this one opens and locks it."""
    lock, calls = fcntl.flock, []

    def flock(file, operation):
        lock(file, operation)
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock_folder(tmp_path), open(tmp_path / ".lock", "rb") as file:
        with pytest.raises(BlockingIOError):
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert file.read().startswith(b"process")
    assert len(calls) == 2


@pytest.mark.slow
def test_two_runs_that_start_together_end_as_one_run_and_one_refusal(tmp_path):
    command = [sys.executable, "-m", "cplmix_ray.train", "--max-steps", "200", "--engine", "local", "--out"]
    runs = [
        subprocess.Popen([*command, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [run.communicate()[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 2]
    assert len(max(errors).splitlines()) == 1
    assert "Traceback" not in max(errors)
    assert len(list((tmp_path / "out" / "tensorboard").iterdir())) == 1


def test_a_folder_in_place_of_an_output_file_is_refused_before_anything_is_computed(tmp_path):
    with pytest.raises(InputError, match="folder"):
        lock_file(tmp_path)
