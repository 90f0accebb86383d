"""A search whose processes are killed at random moments comes to the rows of one that was left alone."""

import csv
import os
import random
import re
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import yaml
from processes import trial_processes, workers_of
from search_driver import start_search

from cplmix_ray.config.files import load_search
from cplmix_ray.data.io.read import read_source
from cplmix_ray.tuning.search import run_search
from cplmix_ray.tuning.search_folder import SearchFolder

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")

EVERY = 25
SEARCH = {
    "run": {
        "input": {"data": "digits"},
        "model": {"hidden": [16]},
        "training": {"max_steps": 150, "batch_size": 64, "evaluate_every": EVERY, "checkpoint_every": EVERY},
    },
    "space": {
        "model.n_arms": {"choice": [1, 2]},
        "objective.lam": {"loguniform": [0.1, 10]},
        "training.lr": {"choice": [3e-3, 1e-3, 2e-3, 1e30]},
    },
    "search": {"trials": 8, "trial_failures": 2, "search_seed": 1},
}
PROCESSES = {
    "trial": trial_processes,
    "arm": lambda driver: workers_of(driver, "ray::TrainingWorker"),
    "data set": lambda driver: workers_of(driver, "ray::_DatasetActor"),
}
KILLS = ["driver", "trial", "arm", "driver", "data set", "trial", "driver", "arm"]


def rows_of(out: Path) -> dict[str, dict]:
    with open(out / "results.csv", newline="") as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def files_of_ended(out: Path) -> dict[Path, int]:
    """What the trials that have ended wrote, and when."""
    ended = [name for name, row in rows_of(out).items() if row["status"] in ("done", "failed")]
    return {p: p.stat().st_mtime_ns for name in ended for p in (out / "trials" / name).rglob("*") if p.is_file()}


def await_process(kind: str, driver: BaseProcess) -> list[int]:
    """Processes of a kind, waited for; none where the search has ended."""
    end = time.monotonic() + 300
    while driver.is_alive():
        if found := PROCESSES[kind](driver.pid):
            return found
        assert time.monotonic() < end, "no trial has begun"
        time.sleep(0.05)
    return []


def without_arm(error: str) -> str:
    """Why a trial failed; where all arms do, any may be the first to say so."""
    return re.sub(r".*Error: |arm \d", "", error)


def await_report(out: Path, since: float, driver: BaseProcess) -> float:
    """When a trial has reported again, or the search has ended."""
    end = time.monotonic() + 300
    while driver.is_alive():
        newest = max((path.stat().st_mtime for path in out.glob("trials/*/reports.jsonl")), default=0.0)
        if newest > since + 0.5:
            return newest
        assert time.monotonic() < end, "no trial has reported"
        time.sleep(0.05)
    return since


def kill(kind: str, driver: BaseProcess) -> list[psutil.Process] | None:
    """Kill one process: the descendants of a driver that was killed; None where the search has ended."""
    if kind == "driver":
        children = psutil.Process(driver.pid).children(recursive=True)
        os.kill(driver.pid, signal.SIGKILL)
        driver.join()
        return children
    pids = await_process(kind, driver)
    for pid in pids[-1:]:
        os.kill(pid, signal.SIGKILL)
    return [] if pids else None


@pytest.fixture
def searches():
    """Starts drivers, and ends what a failed test has left of them."""
    started = []

    def start(spec: Path, out: Path) -> BaseProcess:
        started.append(start_search(spec, out))
        return started[-1]

    yield start
    for driver in started:
        driver.kill()
        driver.join()


@pytest.mark.slow
def test_whatever_is_killed_no_row_is_lost_and_no_ended_trial_runs_again(ray_cluster, searches, tmp_path, fault_row):
    spec, out = tmp_path / "spec.yaml", tmp_path / "out"
    spec.write_text(yaml.safe_dump(SEARCH))
    moments = random.Random(7)
    driver = searches(spec, out)
    done, left, names, ended = [], [], set(), {}
    seconds = dict.fromkeys(("driver", *PROCESSES), 0.0)
    for kind in KILLS:
        await_process("arm", driver)
        time.sleep(moments.uniform(0, 2.5))
        children = kill(kind, driver) if driver.is_alive() else None
        if children is None:
            break
        killed = time.time()
        done.append(kind)
        left += children
        if kind == "driver":
            now = rows_of(out)
            assert names <= set(now), "a row was lost"
            names, ended = set(now), {**ended, **files_of_ended(out)}
            driver = searches(spec, out)
        seconds[kind] = max(seconds[kind], await_report(out, killed, driver) - killed)
    driver.join()
    assert driver.exitcode == 0
    assert done.count("driver") >= 3 and len(done) >= 6, f"the search ended before {KILLS}: {done}"

    rows = rows_of(out)
    assert {path: path.stat().st_mtime_ns for path in ended} == ended, "a trial that had ended was run again"
    assert sorted(path.name for path in (out / "trials").iterdir()) == sorted(rows) == [f"{n:04d}" for n in range(8)]
    whole = SearchFolder(tmp_path / "whole")
    run_search(load_search(spec), read_source("digits"), whole)
    for name, row in rows_of(whole.path).items():
        same = ("status", *SEARCH["space"], "score", "scores", "runs", "step", "acc", "consensus", "reconstruction")
        assert {key: rows[name][key] for key in same} == {key: row[key] for key in same}
        assert without_arm(rows[name]["error"]) == without_arm(row["error"])
    assert {row["status"] for row in rows.values()} == {"done", "failed"}
    assert (out / "best" / "result.h5ad").exists()
    assert psutil.wait_procs(left, timeout=60)[1] == [], "processes of a killed driver live on"
    for kind in seconds:
        fault_row(
            f"search: {kind} process lost",
            "kill -9 at random moments, mixed with the others and with trials that fail by themselves",
            done.count(kind),
            "rows and scores of the uninterrupted search; no ended trial ran again",
            None,
            seconds[kind] if kind == "driver" else None,  # after the others, another trial may report first
        )


@pytest.mark.slow
def test_a_process_that_dies_as_its_trial_ends_takes_no_other_trial_along(ray_cluster, tmp_path, fault_row):
    space = {"objective.lam": {"grid": [0.5, 1.0, 2.0, 4.0]}}
    spec = {**SEARCH, "space": space, "search": {"max_concurrent": 1, "trial_failures": 1}}
    killed = {}

    def strike(trials):
        for trial in trials:
            if trial.status == "done" and trial.name not in killed:
                killed[trial.name] = trial.report["pid"]
                os.kill(trial.report["pid"], signal.SIGKILL)

    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    told = load_search(tmp_path / "spec.yaml"), read_source("digits"), SearchFolder(tmp_path / "out")
    run_search(*told, strike)
    assert len(killed) == 4
    assert [(row["status"], row["error"]) for row in rows_of(tmp_path / "out").values()] == [("done", "")] * 4
    fault_row(
        "search: trial process lost", "kill -9 as its trial ends and the next one waits", 4, "all trials are done"
    )
