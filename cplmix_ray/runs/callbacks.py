"""Callback of a run: writes TensorBoard scalars and checkpoints, and reports progress."""

import statistics
import time
from pathlib import Path
from typing import Protocol

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint, write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import RunConfig
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.metrics.registry import names_in
from cplmix_ray.models.registry import family_of
from cplmix_ray.runs.tensorboard import TensorBoardWriter, total_loss
from cplmix_ray.training.events import Evaluated, Logged, PlanChanged, Restarted, RunEvent, Snapshot, WorkersLost
from cplmix_ray.utils.durable import why
from cplmix_ray.utils.errors import DiskError
from cplmix_ray.version import __version__


class Progress(Protocol):
    """Shows messages and the progress of a run."""

    def say(self, line: str) -> None: ...
    def advance(self, step: int, figures: dict[str, float]) -> None: ...


class RunCallback:
    """Handles the events of a run.

    Args:
        seconds: time that the run took before it was resumed.
        step: step at which it starts or is resumed.
    """

    def __init__(
        self, config: RunConfig, data: Dataset, folder: RunFolder, progress: Progress, seconds: float, step: int
    ):
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.family = family_of(config)
        self.writer = TensorBoardWriter(folder.tensorboard, step, progress.say, self.family.tags(config))
        self.seconds_before, self.started = seconds, time.perf_counter()
        # (step, seconds, seconds waited) of every logged step, in one list for each start of the workers.
        self.timings: list[list[tuple[int, float, float]]] = [[]]
        self.sent = 0
        self.restarts = self.lost_steps = self.missed_checkpoints = 0
        self.snapshot: Snapshot | None = None
        self.shown: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.saved: Path | None = None
        self.warned = False

    @property
    def seconds(self) -> float:
        """Time that the run has taken so far."""
        return self.seconds_before + time.perf_counter() - self.started

    def handle(self, event: RunEvent) -> None:
        match event:
            case Logged():
                self._logged(event)
            case Evaluated():
                self._evaluated(event)
            case Snapshot():
                self._snapshot(event)
            case Restarted():
                self._restarted(event)
            case WorkersLost():
                self.progress.say(f"{event.reason}.")
            case PlanChanged():
                self.progress.say(event.reason)

    def _logged(self, event: Logged) -> None:
        self.writer.terms(event)
        self.timings[-1].append((event.step, event.seconds, event.waited))
        self.sent = event.sent
        warning = None if self.warned else self.family.warn(event.terms, event.step, self.config)
        if warning is not None:
            self.warned = True
            self.progress.say(warning)
        self.shown["loss"] = total_loss(event)
        self.progress.advance(event.step, self.shown)

    def _evaluated(self, event: Evaluated) -> None:
        if not event.outputs:
            return
        combined, units = self.family.validation_scores(event.outputs, self.data)
        # Searches use the mean over units of scores that only units have.
        by_unit = [name for name in (units[0] if units else ()) if name.startswith("val_")]
        means = {name.removeprefix("val_"): statistics.fmean(scores[name] for scores in units) for name in by_unit}
        self.scores = {**combined, **means}
        self.writer.scores(event.step, combined, units)
        self.shown.update({name: combined[name] for name in names_in("progress") if name in combined})
        self.progress.advance(event.step, self.shown)

    def _snapshot(self, event: Snapshot) -> None:
        training = self.data.training
        facts = {
            "version": __version__,
            "config": self.config.model_dump(mode="json"),
            "preparations": {name: each.as_dict() for name, each in training.preparations.items()},
            "n_cells": self.data.n_cells,
            "seconds": round(self.seconds, 3),
            **self.family.checkpoint_facts(training),
        }
        self.snapshot, self.saved = event, None
        self.writer.flush()
        try:
            self.saved = write_checkpoint(self.folder.checkpoints, event, facts, self.config.training.keep_checkpoints)
        except OSError as error:
            self._missed_checkpoint(event, error)

    def _missed_checkpoint(self, event: Snapshot, error: OSError) -> None:
        """Report a checkpoint that could not be written; training continues unless it was the last one.

        Raises:
            DiskError: it was the last one, without which the run would be lost.
        """
        self.missed_checkpoints += 1
        newest, _ = latest_checkpoint(self.folder.checkpoints)
        complete = "there is no complete one yet" if newest is None else f"the newest complete one is {newest.path}"
        if event.step == self.config.training.steps(len(self.data.training.train_idx)):
            raise DiskError(
                f"The last checkpoint, of step {event.step}, could not be written ({why(error)}), and {complete}; free "
                f"disk space in {self.folder.path}, and repeat the command with --resume to do the missing steps."
            )
        self.progress.say(
            f"The checkpoint of step {event.step} could not be written ({why(error)}); {complete}. Training continues, "
            f"and the next checkpoint is written as usual."
        )

    def _restarted(self, event: Restarted) -> None:
        logged = [step for step, *_ in self.timings[-1][-1:]]
        lost = max(event.step, event.reached or 0, *logged) - event.step
        self.restarts, self.lost_steps = self.restarts + 1, self.lost_steps + lost
        self.timings.append([])
        self.writer.go_back(event.step)
        self.progress.say(f"{event.reason}; training continues from step {event.step}, {lost} steps earlier.")

    def failures(self) -> dict[str, int]:
        """Number of restarts after a loss, of steps that were repeated, and of checkpoints that were not written."""
        return {
            "restarts": self.restarts,
            "lost_steps": self.lost_steps,
            "missed_checkpoints": self.missed_checkpoints,
        }

    def speed(self) -> dict[str, float | None]:
        """Milliseconds per step, those of them that the slowest worker waited for the sum over units, and the bytes
        that a worker sends per step.

        Times include evaluations and checkpoints between steps, and exclude the first tenth (warm-up). For a run with
        restarts they are those of the longest time between two.
        """
        points = max(self.timings, key=len)
        points = points[len(points) // 10 :]
        figures: dict[str, float | None] = {"step_ms": None, "coupling_wait_ms": None, "coupling_bytes": self.sent}
        if len(points) > 1:
            (first, started, waited), (last, ended, waited_in_all) = points[0], points[-1]
            figures["step_ms"] = round(1000 * (ended - started) / (last - first), 3)
            figures["coupling_wait_ms"] = round(1000 * (waited_in_all - waited) / (last - first), 3)
        return figures
