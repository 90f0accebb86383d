"""A run from start to end: training, checkpoints, inference, scores."""

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cplmix_ray.checkpoints.checkpoint import Checkpoint
from cplmix_ray.checkpoints.reference_file import write_reference
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import RunConfig, save_config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.distributed.engines import Engine, engine_for
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.registry import family_of
from cplmix_ray.models.resolve import resolve_settings
from cplmix_ray.runs.callbacks import Progress, RunCallback
from cplmix_ray.runs.history import History
from cplmix_ray.training.events import Evaluated, Snapshot
from cplmix_ray.training.loop import Start, require_even_shards


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Attributes:
        metrics: content of metrics.json.
        model: the trained model.
        outputs: outputs of the model for all cells.
        history: values that were logged, from the step on at which the run was started or resumed.
    """

    metrics: dict[str, Any]
    model: TrainedModel
    outputs: Mapping[str, np.ndarray]
    history: History = field(default_factory=History, repr=False)


@dataclass(frozen=True)
class Milestone:
    """A step after which a run was evaluated on the validation cells or saved.

    Attributes:
        scores: the newest scores, empty before the first evaluation.
        saved: the checkpoint folder just written; None if the run was only evaluated, or could not be saved.
    """

    step: int
    scores: dict[str, float]
    saved: Path | None


def run_training(
    config: RunConfig,
    data: Dataset,
    folder: RunFolder,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
    announce: Callable[[Plan, int, int], None] | None = None,
) -> RunResult:
    """Train, and write settings, checkpoints, scalars and scores into ``folder``.

    Args:
        checkpoint: checkpoint to continue from; None starts from the seed.
        announce: called with the plan, the first step and the number of steps before training starts.

    Raises:
        InputError: there are too few devices, or the folder is not writable.
        TrainingError: training failed, or its last checkpoint could not be written; the newest checkpoint is kept.
    """
    family = family_of(config)
    with (
        engine_for(config.placement, len(family.units(config)), family.unit) as engine,
        _ray_watched(engine, config, folder),
    ):
        milestones = training_milestones(config, data, folder, progress, engine, checkpoint, announce)
        while True:
            try:
                next(milestones)
            except StopIteration as end:
                return end.value


def _ray_watched(engine: Engine, config: RunConfig, folder: RunFolder) -> contextlib.AbstractContextManager[None]:
    """Context in which the process ends with a sentence if the Ray that trains the run ends."""
    if engine.plan.engine == "local":
        return contextlib.nullcontext()
    from cplmix_ray.distributed.ray_watch import end_process, ray_watched

    def saved() -> str:
        # By their names alone, as Ray ends the process a moment later.
        steps = [int(path.name.removeprefix("step-")) for path in folder.checkpoints.glob("step-*")]
        if not steps:
            return f"there is no checkpoint yet: repeat the command with --resume --out {folder.path}"
        return f"the checkpoint of step {max(steps)} is complete: continue with --resume --out {folder.path}"

    return ray_watched(config.placement.collective_timeout, lambda ended: end_process(ended, saved))


def training_milestones(
    config: RunConfig,
    data: Dataset,
    folder: RunFolder,
    progress: Progress,
    engine: Engine,
    checkpoint: Checkpoint | None = None,
    announce: Callable[[Plan, int, int], None] | None = None,
) -> Generator[Milestone, None, RunResult]:
    """:func:`run_training` as a generator of milestones. Closing it releases the devices; the run can be resumed."""
    config = resolve_settings(config, data.training)
    family = family_of(config)
    start = Start() if checkpoint is None else Start(checkpoint.step, checkpoint.parts)
    n_steps = config.training.steps(len(data.training.train_idx))
    require_even_shards(config, len(data.training.train_idx))  # before anything is written
    folder.make()
    save_config(config, folder.config)
    family.keep_inputs(folder.path, data.training)
    if announce is not None:
        announce(engine.plan, start.step, n_steps)
    seconds = 0.0 if checkpoint is None else checkpoint.manifest["seconds"]
    callback = RunCallback(config, data, folder, progress, seconds, start.step)
    with contextlib.closing(callback.writer), contextlib.closing(engine.train(config, data.training, start)) as events:
        for event in events:
            callback.handle(event)
            if isinstance(event, Evaluated | Snapshot):
                saved = callback.saved if isinstance(event, Snapshot) else None
                yield Milestone(event.step, callback.scores, saved)
    parts = callback.snapshot.parts if callback.snapshot is not None else start.parts
    assert parts is not None  # a run without a checkpoint to start from takes at least one step
    model = TrainedModel.from_parts(config, data.training.preparations, parts, max(n_steps, start.step))
    outcome = family.evaluate(lambda: model.infer(data.training), model.model, data, config, progress.say)
    saved = callback.saved if checkpoint is None or callback.snapshot is not None else checkpoint.path
    if outcome.reference and saved is not None:
        write_reference(saved, outcome.reference)
    model = replace(model, reference=outcome.reference)
    metrics = {
        **outcome.scores,
        "steps": model.step,
        "seconds": round(callback.seconds, 3),
        **callback.speed(),
        **callback.failures(),
        "n_cells": data.n_cells,
        **family.facts(config),
        "n_workers": len(engine.plan.workers),
        "engine": engine.plan.engine,
        "seed": config.seed,
    }
    family.export(folder.path, model.model, data, config, metrics)
    tables = family.cell_tables(outcome.outputs, data.labels_n, data.batch_n)
    for name, table in tables.items():
        folder.write_table(name, table)
    for name, figure in family.figures(tables).items():
        folder.write_figure(name, figure)
    folder.write_metrics(metrics)
    return RunResult(metrics, model, outcome.outputs, callback.writer.history)
