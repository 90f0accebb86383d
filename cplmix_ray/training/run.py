"""A run from start to end: train, record, checkpoint, infer, score."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cplmix_ray.checkpoints.checkpoint import Checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import Config, save_config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.distributed.engines import Engine, engine_for
from cplmix_ray.distributed.events import Evaluated, Snapshot
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.evaluation.trained_model import Inferred, TrainedModel
from cplmix_ray.metrics.disentanglement import disentanglement
from cplmix_ray.metrics.state_scores import state_scores
from cplmix_ray.metrics.summary import score
from cplmix_ray.models.vaegan.frozen import revive
from cplmix_ray.training.callbacks import Progress, Watcher
from cplmix_ray.training.loop import Start


@dataclass
class Outcome:
    """What a run ended with."""

    metrics: dict[str, Any]
    model: TrainedModel
    inferred: Inferred


@dataclass(frozen=True)
class Milestone:
    """A run at a step at which it was scored on the validation cells or saved.

    Attributes:
        scores: the newest scores, empty before the first.
        saved: the checkpoint folder just written, None where the run was scored and not saved, or could not be.
    """

    step: int
    scores: dict[str, float]
    saved: Path | None


def conduct(
    config: Config,
    data: Dataset,
    folder: RunFolder,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    announce: Callable[[Plan, int, int], None] | None = None,
) -> Outcome:
    """Train, and leave settings, checkpoints, scalars and scores in ``folder``.

    Args:
        checkpoint: where to go on from; None starts from the seed.
        announce: told the plan, the first step and the number of steps before training starts.

    Raises:
        InputError: the devices do not suffice, or the folder cannot be written to.
        TrainingError: training failed, or its last checkpoint could not be written; the newest checkpoint stays.
    """
    with engine_for(config.placement, config.model.n_arms) as engine:
        milestones = conducting(config, data, folder, progress, engine, checkpoint, announce)
        while True:
            try:
                next(milestones)
            except StopIteration as end:
                return end.value


def conducting(
    config: Config,
    data: Dataset,
    folder: RunFolder,
    progress: Progress,
    engine: Engine,
    checkpoint: Checkpoint | None = None,
    announce: Callable[[Plan, int, int], None] | None = None,
) -> Generator[Milestone, None, Outcome]:
    """The same from milestone to milestone; a run that is closed at one gives everything back and can go on later."""
    if data.training.augmenter is not None:
        revive(data.training.augmenter)  # workers do so too; here, what is wrong with it is found before they start
    start = Start() if checkpoint is None else Start(checkpoint.step, checkpoint.arms)
    n_steps = config.training.steps(len(data.training.train_idx))
    folder.make()
    save_config(config, folder.config)
    folder.keep_augmenter(data.training.augmenter)
    if announce is not None:
        announce(engine.plan, start.step, n_steps)
    seconds = 0.0 if checkpoint is None else checkpoint.manifest["seconds"]
    watcher = Watcher(config, data, folder, progress, seconds, start.step)
    with contextlib.closing(watcher.recorder), contextlib.closing(engine.train(config, data.training, start)) as events:
        for event in events:
            watcher.see(event)
            if isinstance(event, Evaluated | Snapshot):
                saved = watcher.saved if isinstance(event, Snapshot) else None
                yield Milestone(event.step, watcher.scores, saved)
    arms = watcher.snapshot.arms if watcher.snapshot is not None else start.arms
    assert arms is not None  # a run without a checkpoint to start from takes at least one step
    model = TrainedModel.from_arms(config, data.training.preparation, arms, max(n_steps, start.step))
    inferred = model.infer(data.training.values_ng)
    metrics = {
        **all_scores(inferred, data, config.seed),
        "steps": model.step,
        "seconds": round(watcher.seconds, 3),
        **watcher.speed(),
        **watcher.mishaps(),
        "n_cells": data.n_cells,
        "n_categories": config.model.n_categories,
        "n_arms": config.model.n_arms,
        "n_workers": len(engine.plan.workers),
        "engine": engine.plan.engine,
        "seed": config.seed,
    }
    folder.write_metrics(metrics)
    return Outcome(metrics, model, inferred)


def all_scores(inferred: Inferred, data: Dataset, seed: int) -> dict[str, float]:
    """Scores over all cells, and over the validation cells under names that begin with ``val_``."""
    scores = scores_of(inferred, data, slice(None))  # no copy of what is said of millions of cells
    scores["reconstruction"] = float(np.mean(inferred.reconstruction))
    if data.factors is not None:
        scores |= disentanglement(inferred.state_nd, inferred.category_n, data.factors.classes_nf, seed)
    held_out = scores_of(inferred, data, data.training.val_idx)
    return {**scores, **{f"val_{name}": value for name, value in held_out.items()}}


def scores_of(inferred: Inferred, data: Dataset, idx_n: np.ndarray | slice) -> dict[str, float]:
    """Scores of the consensus over some of the cells."""
    labels_n = None if data.labels_n is None else data.labels_n[idx_n]
    truth_nm = None if data.truth_nm is None else data.truth_nm[idx_n]
    scores = score(inferred.log_q_ank[:, idx_n], inferred.probs_nk[idx_n], labels_n)[0]
    return {**scores, **state_scores(inferred.state_nd[idx_n], truth_nm, labels_n, inferred.category_n[idx_n])}
