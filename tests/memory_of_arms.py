"""Measures the memory of one arm and of four arms that read the same cells, in a local Ray; prints JSON."""

import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import ray
from processes import workers_of

from cplmix_ray.config.files import parse_config
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN, Modality, TrainingSet
from cplmix_ray.distributed.actors import train_on_actors
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.models.cplmixvae.dataset import ArmTables
from cplmix_ray.training.loop import Start

CELLS, GENES = 20_000, 5_000
MEGABYTES = CELLS * GENES * 4 / 2**20


def memory_of_process(pid: int) -> dict[str, float]:
    """Memory of a process in MB: private, object store (RSS), object store with shared pages divided (PSS)."""
    sizes = {"own": 0.0, "store": 0.0, "store_share": 0.0}
    in_store = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):  # the line that opens a mapping ends with its file
            in_store = "/plasma" in line  # in /dev/shm, or in a folder where that is small
        elif first == "Rss:" and in_store:
            sizes["store"] += int(rest[0]) / 1024
        elif first == "Pss:" and in_store:
            sizes["store_share"] += int(rest[0]) / 1024
        elif first == "Anonymous:" and not in_store:
            sizes["own"] += int(rest[0]) / 1024
    return sizes


def memory_of(n_arms: int, stored: StoredSet, genes_hidden: int) -> list[dict[str, float]]:
    """Memory of each worker after it has read all cells."""
    config = parse_config(
        {
            "model": {"n_arms": n_arms, "hidden": [genes_hidden], "bottleneck": 4, "n_categories": 3},
            "training": {"max_steps": 400, "batch_size": 512, "log_every": 60, "evaluate_every": 10_000},
            "copies": {"copies": ["none"]},
        }
    )
    plan = Plan("ray", tuple((arm,) for arm in range(n_arms)), False, "")
    events = train_on_actors(plan, config, stored, Start())
    next(events)
    found = [memory_of_process(pid) for pid in workers_of(os.getpid(), "ray::TrainingWorker")]
    events.close()
    return found


def training_set(values_ng: np.ndarray, train_idx: np.ndarray, preparation: Preparation) -> TrainingSet:
    cells = {MAIN: Modality(InMemoryMatrix(values_ng), preparation)}
    return TrainingSet(cells, train_idx, train_idx[:0], ArmTables())


def main() -> None:
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=900 << 20,
    )
    values_ng = np.random.default_rng(0).random((CELLS, GENES), dtype=np.float32)
    preparation = Preparation("log", tuple(f"g{i}" for i in range(GENES)))
    few, cells = np.arange(CELLS // 10), np.arange(CELLS)
    small = StoredSet.put(training_set(values_ng[few], few, preparation))
    large = StoredSet.put(training_set(values_ng, cells, preparation))
    del values_ng
    seen = {"cells": MEGABYTES}
    for name, n_arms, stored in (("few", 1, small), ("one", 1, large), ("four", 4, large)):
        seen[name] = memory_of(n_arms, stored, 8)
        time.sleep(1)
    ray.shutdown()
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
