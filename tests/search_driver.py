"""Driver processes of searches for tests to kill or stop, forked from a server that has imported the slow modules."""

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from cplmix_ray.config.files import load_search
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.stopped_processes import StoppedProcessKiller

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["cplmix_ray.tuning.search", "cplmix_ray.distributed.ray_train", "sklearn.datasets"])


def start_search(spec: Path, out: Path) -> BaseProcess:
    """Start a search, or resume the one in the folder."""
    process = _context.Process(target=_search, args=(spec, out), daemon=False)
    process.start()
    return process


def _search(spec: Path, out: Path) -> None:
    from cplmix_ray.data.io.read import read_source
    from cplmix_ray.tuning.search import run_search

    def say(line: str) -> None:
        with open(out / "said.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    run_search(load_search(spec), read_source("digits"), SearchFolder(out), say=say)


def start_registered(killer: StoppedProcessKiller) -> BaseProcess:
    """A process that registers and does nothing else."""
    process = _context.Process(target=_register, args=(killer,), daemon=True)
    process.start()
    return process


def _register(killer: StoppedProcessKiller) -> None:
    killer.register()
    time.sleep(600)
