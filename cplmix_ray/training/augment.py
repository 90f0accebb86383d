"""An augmenter from cells to a folder: train, record, measure, write."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cplmix_ray.checkpoints.run_folder import require_writable, write_json, write_whole
from cplmix_ray.config import Config
from cplmix_ray.config.augment import AugmentConfig
from cplmix_ray.config.files import save_config
from cplmix_ray.data.io.augmenter_file import MANIFEST, WEIGHTS, FrozenAugmenter
from cplmix_ray.data.matrix.lazy import limits
from cplmix_ray.data.preprocessing.fit import Fitted, fit_preparation
from cplmix_ray.data.preprocessing.preparation import check_finite
from cplmix_ray.data.source import Source
from cplmix_ray.data.split import split_source
from cplmix_ray.models.vaegan.frozen import freeze
from cplmix_ray.models.vaegan.networks import AugmenterShape
from cplmix_ray.models.vaegan.quality import Cells, measure
from cplmix_ray.models.vaegan.training import TrainedAugmenter, train_augmenter
from cplmix_ray.training.callbacks import Progress
from cplmix_ray.training.event_file import ScalarFile
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.threads import torch_threads
from cplmix_ray.version import __version__


@dataclass(frozen=True)
class Task:
    """Cells ready for an augmenter.

    Attributes:
        notes: what the user should know of the preparation.
    """

    cells: Cells
    fitted: Fitted
    shape: AugmenterShape

    @property
    def notes(self) -> tuple[str, ...]:
        return self.fitted.notes


def require_room(folder: Path) -> None:
    """Before any work: the folder can be written to, and nothing of another augmenter or run is overwritten.

    Raises:
        InputError: otherwise.
    """
    if any((folder / name).exists() for name in (MANIFEST, "config.yaml", "checkpoints")):
        raise InputError(f"{folder} already holds an augmenter or a run; choose another --out.")
    require_writable(folder)


def prepare_task(config: AugmentConfig, source: Source) -> Task:
    """Check, prepare and split the cells as training the arms does, so that both see the same values.

    Raises:
        InputError: the values cannot be used, or there are too few cells.
    """
    check_finite(source.values_ng, source)
    fitted = fit_preparation(source, Config(input=config.input))
    train_idx, val_idx = split_source(source, config.input.val_fraction, config.seed)
    if len(train_idx) < 2:
        raise InputError(f"{source.name} has {source.n_cells} cells; an augmenter needs at least 2 to train on.")
    preparation, networks = fitted.preparation, config.networks
    shape = AugmenterShape(
        len(preparation.var_names),
        networks.latent_dim,
        networks.noise_dim,
        networks.hidden,
        pixels=preparation.kind == "images",
        nonnegative=limits(fitted.values_ng)[0] >= 0,
        keep_zeros=networks.keep_zeros and preparation.kind != "images",
    )
    return Task(Cells(fitted.values_ng, train_idx, val_idx, source.labels_n), fitted, shape)


def conduct_augmenter(config: AugmentConfig, task: Task, folder: Path, progress: Progress) -> dict[str, Any]:
    """Train, and leave weights, manifest, settings, scalars and figures in ``folder``; returns the figures.

    Raises:
        TrainingError: training failed.
    """
    begun = time.perf_counter()
    with torch_threads(config.training.threads):
        trained = _train(config, task, folder, progress)
        seconds = time.perf_counter() - begun
        progress.say("Measuring the copies.")
        figures = measure(trained.augmenter, task.cells, trained.spread, config.seed)
    metrics = {
        **figures,
        "measured_on": "validation" if len(task.cells.val_idx) else "training",
        "steps": config.training.max_steps,
        "seconds": round(seconds, 3),
        "seed": config.seed,
    }
    _write(freeze(trained.augmenter, task.fitted.preparation), config, metrics, folder)
    return metrics


def _train(config: AugmentConfig, task: Task, folder: Path, progress: Progress) -> TrainedAugmenter:
    wanted = config.training.device
    gpu = wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available())
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(ScalarFile(folder / "tensorboard", 0, progress.say)) as scalars:
        cells = task.cells
        events = train_augmenter(
            config, cells.values_ng, cells.train_idx, task.shape, torch.device("cuda" if gpu else "cpu")
        )
        while True:
            try:
                step, terms = next(events)
            except StopIteration as end:
                return end.value
            scalars.add(step, {f"augmenter/{name}": value for name, value in terms.items()})
            progress.advance(step, terms)


def _write(frozen: FrozenAugmenter, config: AugmentConfig, metrics: dict[str, Any], folder: Path) -> None:
    """The manifest last: a folder without it holds no augmenter."""
    save_config(config, folder / "config.yaml")
    write_json(folder / "metrics.json", metrics)
    write_whole(folder / WEIGHTS, lambda partial: partial.write_bytes(frozen.weights()))
    facts = {
        "version": __version__,
        "step": config.training.max_steps,
        "seed": config.seed,
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / MANIFEST, frozen.manifest(facts))
