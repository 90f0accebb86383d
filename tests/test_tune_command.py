"""The command as people run it: from nothing to a result, interrupted, killed, and taken up again."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.tune_command import tune as tune_here

SEARCH = {
    "run": {
        "input": {"data": "digits"},
        "model": {"hidden": [16], "n_arms": 1},
        "training": {"max_steps": 600, "batch_size": 64, "evaluate_every": 100, "checkpoint_every": 100},
    },
    "space": {"objective.lam": {"loguniform": [0.1, 10]}, "model.n_categories": {"choice": [8, 10]}},
    "search": {"trials": 6, "max_concurrent": 1},
}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "cplmix_ray.tune", *words]


def tune(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=900, check=False)


def refuse(capsys, monkeypatch, *words: str) -> tuple[int, str]:
    """Exit status and standard error of a command that does not get to train, in this process."""
    monkeypatch.setattr(sys, "argv", ["tune", *words])
    with pytest.raises(SystemExit) as left:
        run_command(tune_here)
    return left.value.code, capsys.readouterr().err


def rows_of(out: Path) -> list[dict]:
    path = out / "results.csv"
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def n_done(out: Path) -> int:
    return sum(row["status"] == "done" for row in rows_of(out))


def starts_of(out: Path, trial: str) -> int:
    """How often a trial's run was begun: each start opens a file of scalars."""
    return len(list((out / "tensorboard" / trial / "seed-0").glob("events.*")))


def descendants(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def stop_half_way(out: Path, how: signal.Signals) -> tuple[subprocess.Popen, str, set[int]]:
    """Start a search, and end its driver once two trials are done and the third is under way."""
    spec = out.parent / "spec.yaml"
    spec.write_text(yaml.safe_dump(SEARCH))
    process = subprocess.Popen(
        command(str(spec), "--out", str(out)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until = time.monotonic() + 600
    while time.monotonic() < until and process.poll() is None:
        third = [row for row in rows_of(out) if row["status"] == "running" and row["step"]]
        if n_done(out) >= 2 and third:
            break
        time.sleep(0.2)
    assert n_done(out) >= 2, "the search did not get half way"
    children = descendants(process.pid)
    os.kill(process.pid, how)
    said, _ = process.communicate(timeout=120)
    return process, said, children


def assert_gone(pids: set[int]) -> None:
    until = time.monotonic() + 90  # Ray's agents look for their node every now and then
    while time.monotonic() < until:
        alive = {pid for pid in pids if Path(f"/proc/{pid}").exists() and not _zombie(pid)}
        if not alive:
            return
        time.sleep(0.5)
    raise AssertionError(f"left over: {[Path(f'/proc/{pid}/cmdline').read_bytes()[:80] for pid in alive]}")


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
def test_an_interrupted_search_goes_on_and_runs_no_trial_twice(tmp_path):
    """Ctrl-C; tests/test_search_kills.py has kill -9."""
    out = tmp_path / "out"
    process, said, children = stop_half_way(out, signal.SIGINT)
    assert process.returncode == 1
    assert said.splitlines()[-1] == f"error: The search was interrupted; continue it with --resume --out {out}."
    assert "Traceback" not in said
    assert_gone(children)
    done = [row["trial"] for row in rows_of(out) if row["status"] == "done"]
    models = {p: p.stat().st_mtime_ns for name in done for p in (out / "trials" / name).rglob("*") if p.is_file()}
    assert 2 <= len(done) < 6

    resumed = tune("--resume", "--out", str(out))
    assert resumed.returncode == 0, resumed.stderr
    rows = rows_of(out)
    assert len(rows) == 6
    assert all(row["status"] == "done" for row in rows)
    assert {path: path.stat().st_mtime_ns for path in models} == models, "a finished trial was run again"
    assert [starts_of(out, name) for name in done] == [1] * len(done)
    assert str(out) in resumed.stdout.splitlines()[-1]
    assert (out / "best" / "result.h5ad").exists()

    whole = tune(str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "whole"))
    assert whole.returncode == 0
    scores = {(row["objective.lam"], row["model.n_categories"]): row["score"] for row in rows_of(tmp_path / "whole")}
    assert scores == {(row["objective.lam"], row["model.n_categories"]): row["score"] for row in rows}


def test_a_wrong_search_is_one_sentence_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    (tmp_path / "bad.yaml").write_text("space: {model.n_armz: {choice: [1]}}\n")
    status, said = refuse(capsys, monkeypatch, str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "out"))
    assert status == 2
    assert said.startswith("error: space.model.n_armz:") and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    status, said = refuse(capsys, monkeypatch, "--data", str(tmp_path / "none.h5ad"), "--out", str(tmp_path / "out"))
    assert status == 2
    assert "none.h5ad" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_more_workers_than_devices_are_refused_before_the_start(tmp_path, capsys, monkeypatch):
    (tmp_path / "many.yaml").write_text(
        "run: {placement: {arms_per_worker: 1, device: cpu}}\nspace: {model.n_arms: {choice: [2, 1000]}}\n"
    )
    status, said = refuse(capsys, monkeypatch, str(tmp_path / "many.yaml"), "--out", str(tmp_path / "out"))
    assert status == 2
    assert "1000 CPU cores" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out" / "search.yaml").exists()


@pytest.mark.slow
def test_a_search_ends_when_its_hours_are_over_and_goes_on_later(tmp_path):
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(yaml.safe_dump({**SEARCH, "search": {**SEARCH["search"], "trials": 3, "max_hours": 12 / 3600}}))
    ended = tune(str(spec), "--out", str(out))
    # On standard error if no trial was completed within so few seconds.
    assert f"--resume --out {out}" in (ended.stdout if ended.returncode == 0 else ended.stderr)
    assert "Traceback" not in ended.stderr
    before = n_done(out)
    assert before < 3
    assert any(row["status"] == "unfinished" for row in rows_of(out))
    ended = tune("--resume", "--max-hours", "1", "--out", str(out))
    assert ended.returncode == 0, ended.stderr
    assert n_done(out) == 3
    assert "--resume" not in ended.stdout
