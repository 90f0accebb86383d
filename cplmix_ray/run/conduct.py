"""A run from start to end: train, record, checkpoint, infer, score, write."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from cplmix_ray import __version__
from cplmix_ray.config import Config, save_config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.engine import Plan, engine_for, run_arms
from cplmix_ray.run.annotate import annotate, write_h5ad
from cplmix_ray.run.folder import RunFolder
from cplmix_ray.run.model import Inferred, TrainedModel
from cplmix_ray.run.record import Recorder, total_loss
from cplmix_ray.scores import score
from cplmix_ray.simplex import centre
from cplmix_ray.trainer.arm_group import resolve_likelihood
from cplmix_ray.trainer.checkpoint import Checkpoint, write_checkpoint
from cplmix_ray.trainer.events import Evaluated, Event, Logged, Snapshot
from cplmix_ray.trainer.loop import Start
from cplmix_ray.trainer.randomness import PURPOSES


class Progress(Protocol):
    """What a run shows while it goes on."""

    def say(self, line: str) -> None: ...
    def advance(self, step: int, figures: dict[str, float]) -> None: ...


@dataclass
class Outcome:
    """What a run ended with."""

    metrics: dict[str, Any]
    model: TrainedModel
    inferred: Inferred


class _Watcher:
    """Turns events into scalars, checkpoints, and words."""

    def __init__(self, config: Config, data: Dataset, folder: RunFolder, progress: Progress, seconds: float, step: int):
        self.config, self.data, self.folder, self.progress = config, data, folder, progress
        self.recorder = Recorder(folder.tensorboard, step)
        self.seconds_before, self.begun = seconds, time.perf_counter()
        self.step_seconds: list[tuple[int, float]] = []
        self.snapshot: Snapshot | None = None
        self.latest: dict[str, float] = {}
        self.floor_told = False

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.begun

    def see(self, event: Event) -> None:
        if isinstance(event, Logged):
            self._logged(event)
        elif isinstance(event, Evaluated):
            self._evaluated(event)
        else:
            self._snapshot(event)

    def _logged(self, event: Logged) -> None:
        self.recorder.terms(event, self.config)
        self.step_seconds.append((event.step, event.seconds))
        floored = sum(event.per_arm["sigma_floored"])
        if floored and not self.floor_told and self.config.model.n_arms > 1:
            self.floor_told = True
            self.progress.say(
                f"At step {event.step}, {floored:g} categories (over all arms) vary less between cells than "
                f"--sigma-floor: no cell uses them, or all do alike; the coupling holds them at the floor."
            )
        self.latest["loss"] = total_loss(event, self.config)
        self.progress.advance(event.step, self.latest)

    def _evaluated(self, event: Evaluated) -> None:
        consensus_nk = centre(torch.from_numpy(event.log_q_ank)).numpy()
        labels_n = self.data.source.labels_n
        labels_n = None if labels_n is None else labels_n[self.data.training.val_idx]
        consensus, arms = score(event.log_q_ank, consensus_nk, labels_n)
        for scores, loss in zip(arms, event.reconstruction, strict=True):
            scores["val_reconstruction"] = loss
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
            "n_cells": self.data.source.n_cells,
            "seconds": round(self.seconds, 3),
        }
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.folder.checkpoints, event, facts, self.config.training.keep_checkpoints)
        self.snapshot = event

    def step_ms(self) -> float | None:
        """Milliseconds a step, without the first tenth, in which things warm up."""
        points = self.step_seconds[len(self.step_seconds) // 10 :]
        if len(points) < 2:
            return None
        (first, begun), (last, ended) = points[0], points[-1]
        return round(1000 * (ended - begun) / (last - first), 3)


def conduct(
    config: Config,
    data: Dataset,
    folder: RunFolder,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    announce: Callable[[Plan, int, int], None] | None = None,
) -> Outcome:
    """Train, and leave everything in ``folder``.

    Args:
        checkpoint: where to go on from; None starts from the seed.
        announce: told the plan, the first step and the number of steps before training starts.

    Raises:
        InputError: the devices do not suffice.
        TrainingError: training failed; the newest checkpoint stays.
    """
    start = Start() if checkpoint is None else Start(checkpoint.step, checkpoint.arms)
    n_steps = config.training.steps(len(data.training.train_idx))
    with engine_for(config.placement, config.model.n_arms) as plan:
        folder.path.mkdir(parents=True, exist_ok=True)
        save_config(config, folder.config)
        if announce is not None:
            announce(plan, start.step, n_steps)
        seconds = 0.0 if checkpoint is None else checkpoint.manifest["seconds"]
        watcher = _Watcher(config, data, folder, progress, seconds, start.step)
        try:
            for event in run_arms(plan, config, data.training, start):
                watcher.see(event)
        finally:
            watcher.recorder.close()
    arms = watcher.snapshot.arms if watcher.snapshot is not None else start.arms
    assert arms is not None  # a run without a checkpoint to start from takes at least one step
    model = TrainedModel.from_arms(config, data.training.preparation, arms, max(n_steps, start.step))
    inferred = model.infer(data.training.values_ng)
    metrics = {
        **all_scores(inferred, data),
        "steps": model.step,
        "seconds": round(watcher.seconds, 3),
        "step_ms": watcher.step_ms(),
        "n_cells": data.source.n_cells,
        "n_categories": config.model.n_categories,
        "n_arms": config.model.n_arms,
        "n_workers": len(plan.workers),
        "engine": plan.engine,
        "seed": config.seed,
    }
    result = data.source.adata.copy()
    annotate(result, inferred, model, metrics)
    write_h5ad(result, folder.result)
    folder.write_metrics(metrics)
    return Outcome(metrics, model, inferred)


def all_scores(inferred: Inferred, data: Dataset) -> dict[str, float]:
    """Scores over all cells, and over the validation cells under names that begin with ``val_``."""
    scores = scores_of(inferred, data.source.labels_n, np.arange(data.source.n_cells))
    scores["reconstruction"] = float(np.mean(inferred.reconstruction))
    held_out = scores_of(inferred, data.source.labels_n, data.training.val_idx)
    return {**scores, **{f"val_{name}": value for name, value in held_out.items()}}


def scores_of(inferred: Inferred, labels_n: np.ndarray | None, idx_n: np.ndarray) -> dict[str, float]:
    """Scores of the consensus over some of the cells."""
    labels = None if labels_n is None else labels_n[idx_n]
    return score(inferred.log_q_ank[:, idx_n], inferred.probs_nk[idx_n], labels)[0]
