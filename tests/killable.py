"""Processes that kill themselves at a chosen point of a run.

They are forked from a server that has already imported everything, so that starting one takes little time.
"""

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

import anndata
import numpy as np
import torch
from disks import fill

from cplmix_ray.checkpoints.checkpoint import write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli.augment_command import augment
from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.train_command import train
from cplmix_ray.data import dataset  # noqa: F401  loaded before anything is forked
from cplmix_ray.data.io.write_h5ad import write_cells
from cplmix_ray.models.cplmixvae import training_step as arms_step
from cplmix_ray.models.cplmixvae.model import CoupledArms
from cplmix_ray.models.vaegan import frozen
from cplmix_ray.models.vaegan import model as vaegan
from cplmix_ray.runs import callbacks, results
from cplmix_ray.training.events import Snapshot
from cplmix_ray.utils.durable import aside, replace_tree, settle
from cplmix_ray.utils.errors import DiskError

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.listdir", "os.scandir"}


@dataclass(frozen=True)
class Kill:
    """Where a process kills itself.

    Args:
        place: "step" (between backward pass and update), "half step" (the same for a VAE-GAN's generator, when the
            discriminator is updated already), "event" (the driver receives the step), "checkpoint" or "export" (before
            a file operation of writing a checkpoint or an augmenter), "evaluation", "metrics", "result" (while the
            file is written) or "time".
        at: the step, the number of the operation or evaluation (from 1), or the seconds after the first step.
    """

    place: str
    at: float = 1


NEVER = Kill("never")


def context() -> Any:
    """The fork server's multiprocessing context; the server imports this module once."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["killable"])
    return forks


@contextlib.contextmanager
def found_by_the_server() -> Iterator[None]:
    """Give the fork server the module search path of this process."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or "." for path in sys.path)
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


class Child:
    """A process that runs a function of this module; ``seen`` holds four numbers that it reports while it runs."""

    def __init__(self, function: Callable, *args: Any):
        forks = context()
        self.seen = forks.Array("d", 4, lock=False)
        self.process = forks.Process(target=function, args=(self.seen, *args))
        with found_by_the_server():
            self.process.start()

    def end(self, timeout: float = 120) -> int:
        """Wait for the process to end; returns its exit status, or minus the signal that killed it."""
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

    # Writes raise no audit event; a kill between opening a file, which truncates it, and writing it matters.
    def profile(_: Any, event: str, what: Any) -> None:
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


def sample(number: int, size: int = 12) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(number)
    return {
        part: {"w": torch.randn(size, generator=generator), "g": generator.get_state()} for part in ("arm-0", "arm-1")
    }


def write_checkpoints(
    seen: Any, folder: Path, written: Sequence[tuple[int, int]], keep: int, at: int, size: int = 12
) -> None:
    """Write checkpoints of (step, sample), counting those completed in ``seen[0]``; die before operation ``at``."""
    counter = _Counter(seen, at)
    before_every_operation(counter)
    counter.armed = True
    for step_, number in written:
        write_checkpoint(folder, Snapshot(step_, sample(number, size)), {}, keep)
        seen[0] += 1


def write_config_and_metrics(seen: Any, folder: Path, at: int) -> None:
    """Replace config.yaml and metrics.json by newer ones, and die at operation ``at``."""
    from cplmix_ray.config import save_config
    from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig

    counter = _Counter(seen, at)
    before_every_operation(counter)
    counter.armed = True
    for seed in (1, 2):
        save_config(CplMixVAEConfig(seed=seed), folder / "config.yaml")
        RunFolder(folder).write_metrics({"seed": seed})
        seen[0] += 1


def replace_trees(seen: Any, folder: Path, at: int) -> None:
    """Replace a folder three times; die before operation ``at``."""
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


def write_cells_in_little_space(seen: Any, folder: Path, log: Path) -> None:
    """Write cells to a file system of 100 kB with 0, 4, ..., 96 kB free, and fail unless each file is whole or absent.

    ``seen`` receives the numbers of whole files and of attempts. A write that fails can leave HDF5 in a state in which
    it crashes later, so this is not done in the process that runs the tests.
    """
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    cells, target = (
        anndata.AnnData(np.random.default_rng(0).random((300, 20)).astype(np.float32)),
        folder / "cells.h5ad",
    )
    for free in range(0, 100, 4):
        ballast = fill(folder, free)
        seen[1] += 1
        try:
            write_cells(target, cells)
        except DiskError as error:
            assert str(target) in str(error) and "No space left on device" in str(error)
            assert [path.name for path in folder.iterdir()] == [ballast.name]
        else:
            np.testing.assert_array_equal(anndata.read_h5ad(target).X, cells.X)
            seen[0] += 1
            target.unlink()
        ballast.unlink()


# Runs


def run_train(seen: Any, words: Sequence[str], log: Path, kill: Kill) -> None:
    """Run `python -m cplmix_ray.train` until it is done or dies as ``kill`` says.

    ``seen`` receives the current step, the time of the first step, and the number of operations or evaluations.
    """
    _run(train, seen, words, log, kill)


def run_augment(seen: Any, words: Sequence[str], log: Path, kill: Kill) -> None:
    """The same of `python -m cplmix_ray.augment`."""
    _run(augment, seen, words, log, kill)


def _run(command: Callable[[list[str]], None], seen: Any, words: Sequence[str], log: Path, kill: Kill) -> None:
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    sys.argv = [command.__name__, *words]
    for model, module in ((CoupledArms, arms_step), (vaegan.VAEGAN, vaegan)):
        _tell_steps(seen, kill, model, module)
    _tell_events(seen, kill)
    _arrange(seen, kill)
    run_command(command)


def _tell_steps(seen: Any, kill: Kill, model: Any, module: Any) -> None:
    """Report the steps of a model; ``module`` holds the function that is called between backward pass and update."""
    inner, took, updates = module.sum_gradients, model.training_step, 0

    def training_step(self, batch, at):
        nonlocal updates
        seen[0], updates = at + 1, 0
        if not seen[1]:
            seen[1] = time.monotonic()
        return took(self, batch, at)

    def sum_gradients(*args):  # gradients are computed, weights not updated yet
        nonlocal updates
        updates += 1
        if seen[0] >= kill.at and {"step": 1, "half step": 2}.get(kill.place) == updates:
            die()
        inner(*args)

    model.training_step, module.sum_gradients = training_step, sum_gradients


def _tell_events(seen: Any, kill: Kill) -> None:
    handle = callbacks.RunCallback.handle

    def told(self, event):  # with actors, steps are taken in other processes
        seen[0] = max(seen[0], getattr(event, "step", 0))
        if not seen[1]:
            seen[1] = time.monotonic()
        if kill.place == "event" and seen[0] >= kill.at:
            die()
        handle(self, event)

    callbacks.RunCallback.handle = told


def _arrange(seen: Any, kill: Kill) -> None:
    if kill.place == "checkpoint":
        _die_at_operation_of(callbacks, "write_checkpoint", seen, kill)
    elif kill.place == "export":
        _die_at_operation_of(frozen.FrozenAugmenter, "write", seen, kill)
    elif kill.place == "evaluation":
        report = callbacks.TensorBoardWriter.scores

        def die_then(*args):  # outputs are computed, scores not reported yet
            seen[2] += 1
            return die() if seen[2] == kill.at else report(*args)

        callbacks.TensorBoardWriter.scores = die_then
    elif kill.place == "metrics":
        sys.addaudithook(lambda event, args: _die_at_move(event, args, "metrics.json"))
    elif kill.place == "result":
        write_cells = results.write_cells

        def watched(path, adata):
            # HDF5 opens files without an audit event; once the file has any bytes, most are still to be written.
            threading.Thread(
                target=_die_once_there, args=(path.with_name(".partial-result.h5ad"),), daemon=True
            ).start()
            write_cells(path, adata)

        results.write_cells = watched
    elif kill.place == "time":
        threading.Thread(target=_die_after, args=(seen, kill.at), daemon=True).start()


def _die_at_operation_of(owner: Any, name: str, seen: Any, kill: Kill) -> None:
    """Die before the operation on files number ``kill.at`` of those that a function makes, over all its calls."""
    counter, write = _Counter(seen, kill.at), getattr(owner, name)
    before_every_operation(counter)

    def armed(*args):
        counter.armed = True
        path = write(*args)
        counter.armed = False
        return path

    setattr(owner, name, armed)


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
