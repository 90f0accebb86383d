"""Runs and searches in one process, one after the other, while their workers are randomly killed and stopped.

    python tests/endurance.py --minutes 30
    python tests/endurance.py --rounds 3

Prints a line for each run and search, then a summary as a line of JSON: the signals sent, whether each run ended with
the weights of an undisturbed run and each search (every second one population based) with the rows of an undisturbed
one, and the use of memory, files, threads, processes and Ray's resources at first and at the end. "At first" is after
an undisturbed run and an undisturbed search of each kind, so that what a process loads once (Ray Tune) is included.
"""

import argparse
import contextlib
import csv
import gc
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from processes import workers_of

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config.files import parse_config
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.io.read import read_source
from cplmix_ray.distributed.ray_init import ray_session
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.runs.run import run_training
from cplmix_ray.tuning.search import run_search
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.trial import NoProgress

RUN = {
    "model": {"n_arms": 2, "hidden": [24], "bottleneck": 8},
    "training": {"max_steps": 1200, "batch_size": 64, "log_every": 10, "evaluate_every": 400, "checkpoint_every": 60},
    "placement": {"engine": "ray", "collective_timeout": 20.0, "max_failures": 100},
}
SEARCH = {
    "run": {**RUN, "model": {**RUN["model"], "n_arms": 1}, "training": {**RUN["training"], "max_steps": 400}},
    # With the third learning rate values overflow, and the trial fails.
    "space": {"training.lr": {"grid": [1e-3, 3e-3, 1e30]}, "objective.lam": {"grid": [0.5, 2.0]}},
    "search": {"trial_failures": 6},
}
# Four trials that exchange weights three times.
POPULATION = {
    "run": SEARCH["run"],
    "space": {"training.lr": {"choice": [1e-3, 2e-3, 4e-3]}, "objective.beta": {"loguniform": [0.1, 10]}},
    "search": {"trials": 4, "scheduler": "pbt", "perturb_every": 100, "trial_failures": 20},
}


class RandomSignals:
    """Context in which a thread sends a signal to a random worker process of this Ray every few seconds.

    Args:
        titles: titles of the processes that may receive one.
        kinds: signals that may be sent.
    """

    MOST = 3
    """Signals in total, so that a run ends even on a slow machine."""
    PAUSE = (1.0, 8.0)
    """Range of seconds between two signals; the first is sent before a run on a fast machine is over."""

    def __init__(self, rng: random.Random, titles: tuple[str, ...], kinds: tuple[int, ...]):
        self.rng, self.titles, self.kinds = rng, titles, kinds
        self.done: list[int] = []
        self._over = threading.Event()

    def __enter__(self) -> "RandomSignals":
        self._over.clear()
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _make(self) -> None:
        while len(self.done) < self.MOST and not self._over.wait(self.rng.uniform(*self.PAUSE)):
            while not (found := self._found()):
                if self._over.wait(0.1):
                    return
            kind = self.rng.choice(self.kinds)
            with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                os.kill(self.rng.choice(found), kind)
                self.done.append(kind)

    def _found(self) -> list[int]:
        return [pid for title in self.titles for pid in workers_of(os.getpid(), title)]


def state() -> dict[str, float]:
    """Resources held by this process and its Ray; memory is private memory in MiB."""
    import ray
    from ray.util import placement_group_table

    gc.collect()
    me = psutil.Process()
    has, free = ray.cluster_resources(), ray.available_resources()
    node = [child for child in me.children(recursive=True) if child.name() in ("raylet", "gcs_server")]
    return {
        "own_mib": round(me.memory_full_info().uss / 2**20, 1),
        "ray_mib": round(sum(child.memory_full_info().uss for child in node) / 2**20, 1),
        "files": me.num_fds(),
        "ray_files": sum(child.num_fds() for child in node),
        "threads": me.num_threads(),
        "processes": len(me.children(recursive=True)),
        "cpus_held": round(has["CPU"] - free.get("CPU", 0.0), 3),
        "store_held_mib": round((has["object_store_memory"] - free.get("object_store_memory", 0.0)) / 2**20, 1),
        "groups": sum(group["state"] != "REMOVED" for group in placement_group_table().values()),
    }


def settled(seconds: float = 20.0) -> dict[str, float]:
    """``state()`` once Ray holds no CPU and no placement group, or after ``seconds``."""
    until = time.monotonic() + seconds
    while (now := state())["cpus_held"] + now["groups"] > 0 and time.monotonic() < until:
        time.sleep(0.5)
    return now


def train(out: Path, data: Any, config: CplMixVAEConfig) -> tuple[dict[int, dict[str, torch.Tensor]], dict[str, Any]]:
    """Final weights and metrics of a run."""
    outcome = run_training(config, data, RunFolder(out), NoProgress())
    checkpoint, wrong = latest_checkpoint(out / "checkpoints")
    assert checkpoint is not None and not wrong and checkpoint.step == config.training.max_steps
    return checkpoint.parts, outcome.metrics


def search(out: Path, source: Any, spec: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of a search: trial, how it ended, score, point."""
    run_search(SearchConfig.model_validate(spec), source, SearchFolder(out))
    with open(out / "results.csv", newline="") as file:
        return [
            tuple(row[name] for name in ("trial", "status", "score", *spec["space"])) for row in csv.DictReader(file)
        ]


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[arm][name], other[arm][name]) for arm in other for name in other[arm])


def main(minutes: float, rounds: float, seed: int) -> None:
    rng = random.Random(seed)
    source, config = read_source("digits"), parse_config(RUN)
    data = build_dataset(source, config)
    told: dict[str, Any] = {"runs": 0, "searches": 0, "killed": 0, "frozen": 0, "restarts": 0, "lost_steps": 0}
    told |= {"other_weights": 0, "other_rows": 0}
    kinds = {"search": SEARCH, "population": POPULATION}
    with tempfile.TemporaryDirectory() as scratch, ray_session(None):
        whole, _ = train(Path(scratch) / "whole", data, config)
        rows = {
            kind: search(Path(scratch) / kind, source, spec)
            for number, (kind, spec) in enumerate(kinds.items(), 1)
            if rounds >= 3 * number
        }
        told["first"], number, begun = settled(), 0, time.monotonic()
        print(0, json.dumps(told["first"]), flush=True)
        while time.monotonic() - begun < 60 * minutes and number < rounds:
            number += 1
            out = Path(scratch) / str(number)
            if number % 3:
                with RandomSignals(rng, ("ray::TrainingWorker",), (signal.SIGKILL, signal.SIGSTOP)) as signals:
                    arms, metrics = train(out, data, config)
                told["runs"] += 1
                told["other_weights"] += not same(arms, whole)
                told["restarts"], told["lost_steps"] = (
                    told[name] + metrics[name] for name in ("restarts", "lost_steps")
                )
            else:
                kind = [*kinds][number // 3 % 2 - 1]
                with RandomSignals(rng, ("ray::TrialActor", "ResourceTrainable"), (signal.SIGKILL,)) as signals:
                    found = search(out, source, kinds[kind])
                told["searches"] += 1
                told["other_rows"] += found != rows[kind]
                for row in sorted({*found} ^ {*rows[kind]}):
                    print(number, kind, "now" if row in found else "undisturbed", *row, flush=True)
            shutil.rmtree(out)
            told["killed"] += signals.done.count(signal.SIGKILL)
            told["frozen"] += signals.done.count(signal.SIGSTOP)
            told["last"] = settled()
            print(
                number,
                json.dumps(told["last"]),
                {k: v for k, v in told.items() if k not in ("first", "last")},
                flush=True,
            )
    told["seconds"] = round(time.monotonic() - begun)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no round after this many minutes")
    parser.add_argument(
        "--rounds",
        type=float,
        default=float("inf"),
        help="two of three are runs, the third a search",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the signals")
    main(**vars(parser.parse_args()))
