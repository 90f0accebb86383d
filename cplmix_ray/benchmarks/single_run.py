"""One run of a benchmark: its figures, and the categories that it gave."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from cplmix_ray.benchmarks.baselines import find_clusters
from cplmix_ray.benchmarks.datasets import cells_of, known_labels, number_of_types
from cplmix_ray.benchmarks.jobs import Job
from cplmix_ray.checkpoints.run_folder import RunFolder, write_whole
from cplmix_ray.config import Config
from cplmix_ray.data.dataset import Dataset, build_dataset
from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.metrics.label_scores import label_scores
from cplmix_ray.models.cplmixvae.objective import categorical_entropy, state_kl
from cplmix_ray.training.resume import checkpoint_to_resume
from cplmix_ray.training.run import conduct
from cplmix_ray.utils.threads import torch_threads
from cplmix_ray.version import __version__

Figures = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where runs leave what they leave, and what they may take.

    Attributes:
        threads: of each run.
        keep_models: leave the checkpoints of finished runs.
    """

    out: Path
    threads: int = 1
    keep_models: bool = False


def categories_file(out: Path, key: tuple[str, ...]) -> Path:
    """Where the categories of a run are."""
    name, _, _, settings_hash, seed = key
    return out / "categories" / f"{name}-{settings_hash}" / f"seed-{seed}.npz"


def perform(job: Job, place: Place) -> Figures:
    """Run, or go on with a run that was interrupted, and return its row; the categories are left in a file.

    Raises:
        InputError: the cells do not fit the settings.
        TrainingError: training failed.
    """
    source, config = cells_of(job), job.config
    n_types = None if source.labels_n is None else number_of_types(source.labels_n)
    if job.types_decide:
        k = number_of_types(known_labels(source, f"entry '{job.entry.name}' without n_categories"))
        config = config.model_copy(update={"model": config.model.model_copy(update={"n_categories": k})})
    config = config.model_copy(
        update={"placement": config.placement.model_copy(update={"engine": "local", "threads": place.threads})}
    )
    with threadpool_limits(place.threads):
        find = _trained if job.entry.method == "cplmix" else _clustered
        category_n, figures = find(job, config, source, place)
    small_n = category_n.astype(np.uint8 if category_n.max() < 256 else np.uint32)
    write_whole(categories_file(place.out, job.key), lambda partial: _save(partial, small_n))
    who = {"version": __version__, "name": job.entry.name, "data": job.data, "method": job.entry.method}
    what = {"seed": config.seed, "hash": job.hash, "n_cells": source.n_cells, "n_types": n_types}
    return {**figures, **who, **what, "n_categories": config.model.n_categories, "settings": job.settings}


def _save(path: Path, category_n: np.ndarray) -> None:
    with open(path, "wb") as file:  # a name is left as it is, a path may get another ending
        np.savez_compressed(file, category_n=category_n)


def _trained(job: Job, config: Config, source: Source, place: Place) -> tuple[np.ndarray, Figures]:
    folder = RunFolder(place.out / "runs" / f"{job.entry.name}-{job.hash}" / f"seed-{config.seed}")
    dataset = build_dataset(source, config)
    checkpoint = None
    if folder.holds_run():
        checkpoint = checkpoint_to_resume(folder, config, dataset, lambda line: None, anew=True)
    outcome = conduct(config, dataset, folder, _Quiet(), checkpoint)
    figures = {**outcome.metrics, **held_out_losses(outcome.model, dataset), "coupling": coupling_of(config)}
    if not place.keep_models:
        shutil.rmtree(folder.checkpoints)
    return outcome.inferred.category_n, figures


def _clustered(job: Job, config: Config, source: Source, place: Place) -> tuple[np.ndarray, Figures]:
    begun = time.perf_counter()
    with torch_threads(place.threads):
        found = find_clusters(job.entry.method, source, config.model.n_categories, config, job.entry.baseline)
    seconds = time.perf_counter() - begun
    scores = {} if source.labels_n is None else label_scores(source.labels_n, found.category_n)
    populated = len(np.unique(found.category_n))
    return found.category_n, {**scores, "populated": populated, "seconds": seconds, "detail": found.detail}


def coupling_of(config: Config) -> str:
    """The coupling's name; there is one, so far, that has no setting."""
    return str(config.model_dump()["objective"].get("coupling", "d_sigma"))


@torch.no_grad()
def held_out_losses(model: TrainedModel, data: Dataset) -> Figures:
    """Reconstruction and val_loss (see COLUMNS of rows) of the validation cells, at the mean state."""
    idx_n = data.training.val_idx
    if not len(idx_n):
        return {}
    network, rows = model.group.network, row_reader(data.training.values_ng, model.group.device)
    network.eval()
    total, reconstruction = 0.0, 0.0
    for part in np.array_split(idx_n, -(-len(idx_n) // 2048)):
        cells = [rows(torch.as_tensor(part))] * network.n_arms
        encoded = network.encode(cells)
        q_ank = encoded.log_q_ank.exp()
        mu_and, log_var_and = network.state(encoded.z_anb, q_ank)
        lost_a = network.reconstruction(cells, mu_and, q_ank) * len(part)
        own_an = model.config.objective.beta * state_kl(mu_and, log_var_and) - categorical_entropy(encoded.log_q_ank)
        reconstruction += float(lost_a.mean())
        total += float((lost_a + own_an.sum(-1)).mean())
    return {"val_reconstruction": reconstruction / len(idx_n), "val_loss": total / len(idx_n)}


class _Quiet:
    """The benchmark says when a run ends; the run itself says nothing."""

    def say(self, line: str) -> None:
        """No words."""

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """No bar."""
