"""What becomes of the events of a run: scalars, scores, checkpoints, words."""

import time
from pathlib import Path
from typing import Protocol

import torch

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint, write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import Config
from cplmix_ray.couplings.simplex import centre
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.distributed.events import Evaluated, Logged, Moved, Noticed, Restarted, RunEvent, Snapshot
from cplmix_ray.metrics.summary import score
from cplmix_ray.models.cplmixvae.arm_group import resolve_likelihood
from cplmix_ray.training.tensorboard import Recorder, total_loss
from cplmix_ray.utils.durable import why
from cplmix_ray.utils.errors import DiskError
from cplmix_ray.utils.randomness import PURPOSES
from cplmix_ray.version import __version__


class Progress(Protocol):
    """What a run shows while it goes on."""

    def say(self, line: str) -> None: ...
    def advance(self, step: int, figures: dict[str, float]) -> None: ...


class Watcher:
    """Turns events into scalars, checkpoints, and words."""

    def __init__(self, config: Config, data: Dataset, folder: RunFolder, progress: Progress, seconds: float, step: int):
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.recorder = Recorder(folder.tensorboard, step, progress.say)
        self.seconds_before, self.begun = seconds, time.perf_counter()
        self.stretches: list[list[tuple[int, float, float]]] = [[]]
        self.sent = 0
        self.restarts = self.lost_steps = self.missed = 0
        self.snapshot: Snapshot | None = None
        self.latest: dict[str, float] = {}
        self.scores: dict[str, float] = {}
        self.saved: Path | None = None
        self.floor_told = False

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.begun

    def see(self, event: RunEvent) -> None:
        match event:
            case Logged():
                self._logged(event)
            case Evaluated():
                self._evaluated(event)
            case Snapshot():
                self._snapshot(event)
            case Restarted():
                self._restarted(event)
            case Noticed():
                self.progress.say(f"{event.reason}.")
            case Moved():
                self.progress.say(event.reason)

    def _logged(self, event: Logged) -> None:
        self.recorder.terms(event)
        self.stretches[-1].append((event.step, event.seconds, event.waited))
        self.sent = event.sent
        floored = sum(event.per_arm["sigma_floored"])
        if floored and not self.floor_told and self.config.model.n_arms > 1:
            self.floor_told = True
            self.progress.say(
                f"At step {event.step}, {floored:g} categories (over all arms) vary less between cells than "
                f"--sigma-floor: no cell uses them, or all do alike; the coupling holds them at the floor."
            )
        self.latest["loss"] = total_loss(event)
        self.progress.advance(event.step, self.latest)

    def _evaluated(self, event: Evaluated) -> None:
        consensus_nk = centre(torch.from_numpy(event.log_q_ank)).numpy()
        labels_n = self.data.labels_n
        labels_n = None if labels_n is None else labels_n[self.data.training.val_idx]
        consensus, arms = score(event.log_q_ank, consensus_nk, labels_n)
        for scores, loss in zip(arms, event.reconstruction, strict=True):
            scores["val_reconstruction"] = loss
        self.scores = {**consensus, "reconstruction": sum(event.reconstruction) / len(event.reconstruction)}
        self.recorder.scores(event.step, consensus, arms)
        self.latest.update({k: consensus[k] for k in ("acc", "consensus", "populated") if k in consensus})
        self.progress.advance(event.step, self.latest)

    def _snapshot(self, event: Snapshot) -> None:
        facts = {
            "version": __version__,
            "config": self.config.model_dump(mode="json"),
            "likelihood": resolve_likelihood(self.config, self.data.training.preparation),
            "preparation": self.data.training.preparation.as_dict(),
            "generators": list(PURPOSES),
            "n_cells": self.data.n_cells,
            "augmenter": None if self.data.training.augmenter is None else self.data.training.augmenter.checksum,
            "seconds": round(self.seconds, 3),
        }
        self.snapshot, self.saved = event, None
        self.recorder.keep()
        try:
            self.saved = write_checkpoint(self.folder.checkpoints, event, facts, self.config.training.keep_checkpoints)
        except OSError as error:
            self._missed(event, error)

    def _missed(self, event: Snapshot, error: OSError) -> None:
        """The next one may succeed; after the last there is none, and what was trained would be lost unsaid.

        Raises:
            DiskError: it was the last.
        """
        self.missed += 1
        newest, _ = latest_checkpoint(self.folder.checkpoints)
        whole = "there is no whole one yet" if newest is None else f"the newest whole one is {newest.path}"
        if event.step == self.config.training.steps(len(self.data.training.train_idx)):
            raise DiskError(
                f"The last checkpoint, of step {event.step}, could not be written ({why(error)}), and {whole}; make "
                f"room in {self.folder.path}, and the same command with --resume does what is missing."
            )
        self.progress.say(
            f"The checkpoint of step {event.step} could not be written ({why(error)}); {whole}. Training goes on, and "
            f"the next checkpoint is tried as usual."
        )

    def _restarted(self, event: Restarted) -> None:
        logged = [step for step, *_ in self.stretches[-1][-1:]]
        lost = max(event.step, event.reached or 0, *logged) - event.step
        self.restarts, self.lost_steps = self.restarts + 1, self.lost_steps + lost
        self.stretches.append([])
        self.recorder.go_back(event.step)
        self.progress.say(f"{event.reason}; training goes on from step {event.step}, {lost} steps behind.")

    def mishaps(self) -> dict[str, int]:
        """How often training started again after a loss, how many steps were done once more for it, and how many
        checkpoints could not be written."""
        return {"restarts": self.restarts, "lost_steps": self.lost_steps, "missed_checkpoints": self.missed}

    def speed(self) -> dict[str, float | None]:
        """Milliseconds a step, and how many of these the slowest worker stood still for the arms' sum; scores and
        checkpoints between steps included, without the first tenth (warming up). Of a run with restarts, the longest
        stretch without one counts. And the bytes that a worker sends at a step.
        """
        points = max(self.stretches, key=len)
        points = points[len(points) // 10 :]
        figures: dict[str, float | None] = {"step_ms": None, "coupling_wait_ms": None, "coupling_bytes": self.sent}
        if len(points) > 1:
            (first, begun, waited), (last, ended, waited_then) = points[0], points[-1]
            figures["step_ms"] = round(1000 * (ended - begun) / (last - first), 3)
            figures["coupling_wait_ms"] = round(1000 * (waited_then - waited) / (last - first), 3)
        return figures
