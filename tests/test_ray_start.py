"""A run's own Ray on machines without home, usable TMPDIR or shared memory, and runs where Ray cannot be started."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from cplmix_ray.config import Placement
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.io.read import read_source
from cplmix_ray.distributed import engines, local_instance
from cplmix_ray.distributed.plan import Devices
from cplmix_ray.tuning import search
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.utils.errors import RayStartError, TrainingError

TRAIN = "--max-steps 12 --hidden 16 --bottleneck 6 --batch-size 64 --out run"


def environment(**changed: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "OMP_NUM_THREADS": "1", **changed}


def train(folder: Path, environment: dict[str, str], *options: str, prefix: tuple[str, ...] = ()) -> dict:
    """Train in a process whose working folder is ``folder``; its metrics. Nothing may be left over or written to stderr
    but progress."""
    command = [*prefix, sys.executable, "-m", "cplmix_ray.train", *TRAIN.split(), *options]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "step" not in line], done.stderr
    return json.loads((folder / "run" / "metrics.json").read_text())


# The folder


def long_path(tmp_path: Path) -> Path:
    path = tmp_path / ("x" * max(1, 100 - len(str(tmp_path))))
    path.mkdir()
    return path


def folder_with(monkeypatch, tmpdir: Path | None) -> Path | None:
    """The place that is chosen for the files of a Ray."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    if tmpdir is None:
        monkeypatch.delenv("TMPDIR", raising=False)
    else:
        monkeypatch.setenv("TMPDIR", str(tmpdir))
    with local_instance._private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        socket_path = str(folder / local_instance._LONGEST_SOCKET)
        assert len(socket_path.encode()) <= 107
    assert not folder.exists()
    return folder.parent


@pytest.mark.parametrize(("prefix", "used"), [("a", True), ("ä", False)])
def test_a_short_folder_named_by_the_user_is_used_if_ray_can_encode_it(prefix, used, monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix=prefix) as place:
        assert (folder_with(monkeypatch, Path(place)) == Path(place)) == used


@pytest.mark.parametrize("kind", ["unset", "long", "missing", "file", "not writable"])
def test_another_folder_is_found_where_TMPDIR_does_not_serve(kind, monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    places = {"missing": tmp_path / "missing", "file": file, "not writable": Path("/proc/self")}
    place = long_path(tmp_path) if kind == "long" else places.get(kind)
    assert folder_with(monkeypatch, place) in (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))


def test_another_folder_is_found_where_TMPDIR_is_full(monkeypatch, tmp_path, disk):
    disk(tmp_path / "t", 64)
    assert folder_with(monkeypatch, tmp_path / "t") != tmp_path / "t"
    assert not any((tmp_path / "t").iterdir())


def test_without_any_folder_the_variable_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.mkdtemp", _refuse)
    with pytest.raises(RayStartError, match="TMPDIR"), local_instance._private_folder():
        pass


def _refuse(*_, **__):
    raise PermissionError(13, "Permission denied")


def test_a_machine_that_cannot_connect_to_itself(monkeypatch):
    def unreachable(*_):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("socket.create_connection", unreachable)
    with pytest.raises(RayStartError, match=r"127.0.0.1.*unreachable"), local_instance.local_instance():
        pass


def test_the_object_store_is_where_there_is_room(tmp_path, monkeypatch):
    shared = local_instance.object_store(tmp_path)
    assert shared["object_store_memory"] <= 2 << 30
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert local_instance.object_store(tmp_path)["_plasma_directory"] == str(tmp_path)


@pytest.mark.slow
def test_no_home_a_long_TMPDIR_and_a_token_of_another_cluster_do_not_matter(tmp_path):
    # No user, not even root, can make a folder below a device.
    changed = {"HOME": os.devnull, "TMPDIR": str(long_path(tmp_path)), "RAY_AUTH_TOKEN_PATH": "/nowhere"}
    metrics = train(tmp_path, environment(**changed), "--engine", "ray")
    assert metrics["engine"] == "ray" and metrics["n_workers"] == 2
    assert list(Path(changed["TMPDIR"]).iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_user_whom_the_machine_does_not_know(command, tmp_path):
    """As in a container that is started with a user id: no entry in the user database, and HOME is not set."""
    become = ("unshare", "--user", "--map-user=54321", "--map-group=54321", "env", "-u", "HOME")
    if shutil.which("unshare") is None or subprocess.run([*become, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    if command == "train":
        assert train(tmp_path, environment(), "--engine", "ray", prefix=become)["engine"] == "ray"
        return
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({"run": RUN, "space": {"model.n_arms": {"grid": [2]}}}))
    tune = [sys.executable, "-m", "cplmix_ray.tune", "search.yaml", "--out", "out", "--engine", "ray"]
    done = subprocess.run(
        [*become, *tune], env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "best" / "result.h5ad").exists()


@pytest.mark.slow
def test_nothing_is_uploaded_under_uv_run(tmp_path):
    """Ray knows uv by the command line of a process above it, and refuses to upload more than 512 MiB."""
    with open(tmp_path / "big.bin", "wb") as file:
        file.truncate(600 << 20)
    (tmp_path / "run").write_text(
        f'"{sys.executable}" -m cplmix_ray.train {TRAIN.replace("run", "out")} --engine ray; exit $?\n'
    )
    done = subprocess.run(
        ["uv", "run"],
        executable="/bin/bash",
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["engine"] == "ray"


@pytest.mark.slow
def test_a_process_starts_one_ray_after_another_each_with_its_own_token(tmp_path):
    code = """
import os
from cplmix_ray.distributed.ray_init import ray_session
import ray
for _ in range(2):
    with ray_session(None):
        assert ray.get(ray.remote(lambda: os.getpid()).remote()) != os.getpid()
        token = open(os.environ["RAY_AUTH_TOKEN_PATH"]).read()
    print(token, os.environ.get("RAY_AUTH_TOKEN_PATH"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert (done.returncode, done.stderr) == (0, "")
    (one, after), (other, _) = map(str.split, done.stdout.splitlines())
    assert one != other and after == "None"


# Where Ray cannot be started


@pytest.fixture
def no_ray(monkeypatch):
    """Whatever asks for a Ray of its own learns that there is none."""

    def refuse(address):
        raise RayStartError("no folder for its files was found")

    for module in (engines, search):
        monkeypatch.setattr(module, "joins_cluster", lambda address: False)
        monkeypatch.setattr(module, "ray_session", refuse)


def test_auto_packs_the_arms_where_ray_cannot_be_started_and_says_why(no_ray, monkeypatch):
    monkeypatch.setattr(engines, "local_devices", lambda: Devices(0, 4, "this machine"))
    with engines.engine_for(Placement(), 3) as engine:
        assert (engine.plan.engine, engine.plan.workers) == ("local", ((0, 1, 2),))
        assert "no folder for its files was found" in engine.plan.reason
    with (
        pytest.raises(RayStartError, match=r"no folder.*--engine local"),
        engines.engine_for(Placement(engine="ray"), 3),
    ):
        pass


RUN = {
    "model": {"hidden": [16], "bottleneck": 6, "n_categories": 4},
    "training": {"max_steps": 12, "batch_size": 64, "evaluate_every": 4, "checkpoint_every": 4},
    "copies": {"n_neighbours": 4, "neighbour_pcs": 8},
}
SPACE = {"model.n_arms": {"grid": [1, 2]}, "objective.lam": {"uniform": [0.5, 2]}}


def spec_of(space=SPACE, run=RUN, **settings) -> SearchConfig:
    return SearchConfig.model_validate({"run": run, "space": space, "search": settings})


@pytest.fixture(scope="module")
def source():
    return read_source("digits")


def searched(spec, source, path, show=lambda trials: None) -> tuple[search.SearchResult, list[str]]:
    said: list[str] = []
    return search.run_search(spec, source, SearchFolder(path), show, said.append), said


def test_a_search_runs_its_trials_in_turn_and_continues_where_it_was_interrupted(no_ray, source, tmp_path):
    spec = spec_of(trials=2)
    whole, said = searched(spec, source, tmp_path / "whole")
    assert len(said) == 1 and "no folder for its files was found" in said[0]
    assert [trial.status for trial in whole.trials] == ["done"] * 4
    assert whole.best is not None and (tmp_path / "whole" / "best" / "result.h5ad").exists()
    table = (tmp_path / "whole" / "results.csv").read_text()
    assert len(table.splitlines()) == 5

    interrupted = []

    def interrupt(trials):
        if not interrupted and trials[0].status == "done" and trials[1].report.get("step", 0) >= 4:
            interrupted.append(True)
            raise KeyboardInterrupt

    part, _ = searched(spec, source, tmp_path / "part", interrupt)
    assert [trial.status for trial in part.trials] == ["done", "unfinished", "waiting", "waiting"]
    resumed, _ = searched(spec, source, tmp_path / "part")
    scores = [{trial.name: trial.report["score"] for trial in each.trials} for each in (whole, resumed)]
    assert scores[0] == scores[1]


def test_a_search_in_turn_stops_poor_trials_and_goes_on_after_failures(no_ray, source, tmp_path):
    space = {"training.lr": {"grid": [1e-2, 1e-7, 1e18]}}
    asha = {"scheduler": "asha", "grace_steps": 4, "reduction": 2, "metric": "consensus"}  # 1.0 and 0.82 at step 4
    result, _ = searched(spec_of(space, **asha), source, tmp_path)
    assert [trial.status for trial in result.trials] == ["done", "stopped", "failed"]
    assert result.trials[1].report["step"] < 12 and "finite" in result.trials[2].error


def test_a_search_in_turn_asks_optuna(no_ray, source, tmp_path):
    pytest.importorskip("optuna")
    result, _ = searched(
        spec_of({"objective.lam": SPACE["objective.lam"]}, trials=3, searcher="optuna"), source, tmp_path
    )
    assert [(trial.name, trial.status) for trial in result.trials] == [(f"{i:04d}", "done") for i in range(3)]
    assert len({trial.point["objective.lam"] for trial in result.trials}) == 3


def test_a_search_that_needs_ray_says_so_and_leaves_nothing(no_ray, source, tmp_path):
    pbt = spec_of({"objective.lam": SPACE["objective.lam"]}, trials=2, scheduler="pbt")
    with pytest.raises(TrainingError, match=r"no folder.*pbt"):
        searched(pbt, source, tmp_path)
    with pytest.raises(RayStartError, match="no folder"):
        searched(spec_of(run={**RUN, "placement": {"engine": "ray"}}), source, tmp_path)
    SearchFolder(tmp_path).require_room(resume=False)
