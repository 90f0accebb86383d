"""Processes to be killed: forked in a moment from one that has loaded everything, and killing themselves anywhere."""

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cplmix_ray.checkpoints.checkpoint import write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.train_command import train
from cplmix_ray.data import dataset  # noqa: F401  loaded before anything is forked
from cplmix_ray.distributed.events import Snapshot
from cplmix_ray.evaluation import annotate
from cplmix_ray.models.cplmixvae import training_step as step
from cplmix_ray.training import callbacks as watch
from cplmix_ray.training import loop
from cplmix_ray.utils.durable import aside, replace_tree, settle

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.listdir", "os.scandir"}


@dataclass(frozen=True)
class Kill:
    """Where a process kills itself: ``at`` is a step, the how-manieth operation or evaluation, or the
    seconds after its first step.

    Places are step, event (the driver is told of the step), checkpoint, evaluation, metrics, result and time.
    """

    place: str
    at: float = 1


NEVER = Kill("never")


def context() -> Any:
    """Where processes come from; its server loads this module once."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["killable"])
    return forks


@contextlib.contextmanager
def found_by_the_server() -> Iterator[None]:
    """The server looks for modules where this process does."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or "." for path in sys.path)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


class Child:
    """A process that runs one of this module's functions; ``seen`` is what it tells while it runs."""

    def __init__(self, function: Callable, *args: Any):
        forks = context()
        self.seen = forks.Array("d", 4, lock=False)
        self.process = forks.Process(target=function, args=(self.seen, *args))
        with found_by_the_server():
            self.process.start()

    def end(self, timeout: float = 120) -> int:
        """Wait for its end; its exit status, minus the signal where it was killed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError("the process did not end")
        return self.process.exitcode

    def kill(self) -> int:
        self.process.kill()
        return self.end()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before_every_operation(tick: Callable[[], None]) -> None:
    """Call ``tick`` before each operation on files, for as long as this process lives."""
    sys.addaudithook(lambda event, _: tick() if event in OPERATIONS else None)

    def profile(
        _: Any, event: str, what: Any
    ) -> None:  # between the opening of a file, which empties it, and its content
        if (
            event == "c_call"
            and what.__name__ == "write"
            and isinstance(what.__self__, io.TextIOWrapper | io.BufferedWriter)
        ):
            tick()

    sys.setprofile(profile)
    flush = os.fsync

    def fsync(handle: int) -> None:
        tick()
        flush(handle)

    os.fsync = fsync


class _Counter:
    def __init__(self, seen: Any, at: float):
        self.seen, self.at, self.armed = seen, at, False

    def __call__(self) -> None:
        if self.armed:
            self.seen[2] += 1
            if self.seen[2] == self.at:
                die()


# Checkpoints


def sample(number: int, size: int = 12) -> dict[int, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(number)
    return {a: {"w": torch.randn(size, generator=generator), "g": generator.get_state()} for a in (0, 1)}


def write_checkpoints(
    seen: Any, folder: Path, written: Sequence[tuple[int, int]], keep: int, at: int, size: int = 12
) -> None:
    """Write checkpoints of (step, sample), each counted in ``seen[0]`` once it is done; die at operation ``at``."""
    counter = _Counter(seen, at)
    before_every_operation(counter)
    counter.armed = True
    for step_, number in written:
        write_checkpoint(folder, Snapshot(step_, sample(number, size)), {}, keep)
        seen[0] += 1


def write_config_and_metrics(seen: Any, folder: Path, at: int) -> None:
    """Replace config.yaml and metrics.json by newer ones, and die at operation ``at``."""
    from cplmix_ray.config import Config, save_config

    counter = _Counter(seen, at)
    before_every_operation(counter)
    counter.armed = True
    for seed in (1, 2):
        save_config(Config(seed=seed), folder / "config.yaml")
        RunFolder(folder).write_metrics({"seed": seed})
        seen[0] += 1


def replace_trees(seen: Any, folder: Path, at: int) -> None:
    """Put three folders in each other's place, and die at operation ``at``."""
    counter = _Counter(seen, at)
    before_every_operation(counter)
    counter.armed = True
    for number in ("1", "2", "3"):
        partial = folder / ".partial-best"
        settle(aside(folder / "best"))
        shutil.rmtree(partial, ignore_errors=True)
        for name in ("config.yaml", "checkpoints/a"):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(number)
        replace_tree(partial, folder / "best")
        seen[0] += 1


# Runs


def run_train(seen: Any, words: Sequence[str], log: Path, kill: Kill) -> None:
    """`python -m cplmix_ray.train` until it is done or dies at its place.

    Of what it tells, the first is the step it is at, the second when it began its first step.
    """
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = ["train", *words]
    _tell_steps(seen, kill)
    _arrange(seen, kill)
    run_command(train)


def _tell_steps(seen: Any, kill: Kill) -> None:
    inner, took = step.sum_gradients, loop.train_step

    def train_step(worker, exercise, cells, at, guess_n):
        seen[0] = at + 1
        if not seen[1]:
            seen[1] = time.monotonic()
        return took(worker, exercise, cells, at, guess_n)

    def sum_gradients(*args):  # in the middle of a step: gradients are there, the weights are not updated yet
        if kill.place == "step" and seen[0] >= kill.at:
            die()
        inner(*args)

    see = watch.Watcher.see

    def told(self, event):  # arms on actors take their steps elsewhere
        seen[0] = max(seen[0], getattr(event, "step", 0))
        if not seen[1]:
            seen[1] = time.monotonic()
        if kill.place == "event" and seen[0] >= kill.at:
            die()
        see(self, event)

    loop.train_step, step.sum_gradients, watch.Watcher.see = train_step, sum_gradients, told


def _arrange(seen: Any, kill: Kill) -> None:
    if kill.place == "checkpoint":
        counter, write = _Counter(seen, kill.at), watch.write_checkpoint
        before_every_operation(counter)

        def armed(*args):
            counter.armed = True
            path = write(*args)
            counter.armed = False
            return path

        watch.write_checkpoint = armed
    elif kill.place == "evaluation":
        score = watch.score

        def die_then(*args):  # posteriors are there, their scores are not told yet
            seen[2] += 1
            return die() if seen[2] == kill.at else score(*args)

        watch.score = die_then
    elif kill.place == "metrics":
        sys.addaudithook(lambda event, args: _die_at_move(event, args, "metrics.json"))
    elif kill.place == "result":
        write_cells = annotate.write_cells

        def watched(path, adata):
            # HDF5 opens its file by itself; at its first kilobytes most of it is to come.
            threading.Thread(
                target=_die_once_there, args=(path.with_name(".partial-result.h5ad"),), daemon=True
            ).start()
            write_cells(path, adata)

        annotate.write_cells = watched
    elif kill.place == "time":
        threading.Thread(target=_die_after, args=(seen, kill.at), daemon=True).start()


def _die_at_move(event: str, args: tuple, name: str) -> None:
    if event == "os.rename" and str(args[1]).endswith(name):
        die()


def _die_after(seen: Any, seconds: float) -> None:
    while not seen[1]:
        time.sleep(0.001)
    time.sleep(seconds)
    die()


def _die_once_there(path: Path) -> None:
    while True:
        with contextlib.suppress(OSError):
            if path.stat().st_size > 0:
                die()
