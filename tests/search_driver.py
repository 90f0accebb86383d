"""Processes that a test may kill or freeze, forked from one that has imported what is slow to import."""

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from cplmix_ray.config.files import load_search
from cplmix_ray.tuning.search_folder import SearchFolder

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["cplmix_ray.tuning.search", "cplmix_ray.distributed.ray_train", "sklearn.datasets"])


def start_search(spec: Path, out: Path) -> BaseProcess:
    """Begin a search, or go on with what is in the folder."""
    process = _context.Process(target=_search, args=(spec, out), daemon=False)
    process.start()
    return process


def _search(spec: Path, out: Path) -> None:
    from cplmix_ray.data.dataset import read_source
    from cplmix_ray.tuning.search import conduct_search

    def say(line: str) -> None:
        with open(out / "said.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    conduct_search(
        load_search(spec), read_source("digits"), SearchFolder(out), lambda *told: None, lambda trials: None, say
    )


def start_beating(folder: Path, patience: float) -> BaseProcess:
    """A process that gives signs of life and does nothing else."""
    process = _context.Process(target=_beat, args=(folder, patience), daemon=True)
    process.start()
    return process


def _beat(folder: Path, patience: float) -> None:
    from cplmix_ray.tuning.heartbeat import Pulses

    Pulses(folder, patience).beat()
    time.sleep(600)
