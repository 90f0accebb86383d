"""One run of a benchmark: load the cells, train or cluster, and collect the figures of its row."""

import functools
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import normalized_mutual_info_score
from threadpoolctl import threadpool_limits

from cplmix_ray.benchmarks.baselines import CHOOSE_NUMBER, find_clusters
from cplmix_ray.benchmarks.embeddings import batches_of
from cplmix_ray.benchmarks.runs import BenchmarkRun
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.source import Source
from cplmix_ray.data.splits import take_cells
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.metrics.category_scores import label_scores
from cplmix_ray.metrics.integration import can_score_integration, integration_scores, joint_coordinates
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.cplmixvae.model import CoupledArms
from cplmix_ray.models.cplmixvae.objective import categorical_entropy, state_kl
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.runs.resume import checkpoint_to_resume
from cplmix_ray.runs.run import run_training
from cplmix_ray.utils.durable import write_whole
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_folder
from cplmix_ray.utils.threads import torch_threads
from cplmix_ray.version import __version__

Figures = dict[str, Any]
LeftOut = tuple[tuple[str, tuple[str, ...]], ...]
"""Columns of obs and their values; hashable."""
Found = tuple[np.ndarray, np.ndarray | None, Figures]
"""Categories, coordinates of the cells if the method has any, and figures."""


@dataclass(frozen=True)
class RunOptions:
    """Output and resources of runs.

    Attributes:
        out: folder for categories, scalars and settings.
        threads: threads of each run.
        keep_models: keep the checkpoints of finished runs.
    """

    out: Path
    threads: int = 1
    keep_models: bool = False


def categories_file(out: Path, key: tuple[str, ...]) -> Path:
    """File of the categories of a run."""
    name, _, _, settings_hash, seed = key
    return out / "categories" / f"{name}-{settings_hash}" / f"seed-{seed}.npz"


def load_cells(run: BenchmarkRun) -> Source:
    """The cells of the run's entry, the same for all methods.

    Raises:
        InputError: the data cannot be read, or the entry needs known types and there are none.
    """
    given = run.config.input
    left_out = tuple((column, tuple(values)) for column, values in run.entry.leave_out_cells.items())
    return _load_cells(given.data, given.layer, given.labels_key, left_out, run.entry.min_cells_per_type)


@functools.lru_cache(maxsize=1)
def _load_cells(data: str, layer: str | None, labels_key: str | None, left_out: LeftOut, least: int) -> Source:
    """Cached, as many runs on the same cells follow each other."""
    return drop_rare_types(drop_cells(read_source(data, layer, labels_key), dict(left_out)), least)


def drop_cells(source: Source, values: Mapping[str, Sequence[str]]) -> Source:
    """The cells without those that have one of the values in each of the columns of obs.

    Raises:
        InputError: there is no such column or cell, or no other.
    """
    if not values:
        return source
    drop_n, what = np.ones(source.n_cells, bool), " and ".join(f"{key} {', '.join(values[key])}" for key in values)
    for column, unwanted in values.items():
        if column not in source.adata.obs:
            raise InputError(f"{source.name} has no column '{column}' in obs, which leave_out_cells names.")
        drop_n &= source.adata.obs[column].astype(str).isin(unwanted).to_numpy()
    if not drop_n.any() or drop_n.all():
        which = "All cells" if drop_n.any() else "No cells"
        raise InputError(f"{which} of {source.name} are of {what}; correct leave_out_cells.")
    return take_cells(source, np.flatnonzero(~drop_n))


def drop_rare_types(source: Source, least: int) -> Source:
    """The cells without those of types that have fewer than ``least`` of them; cells of unknown type stay.

    Raises:
        InputError: no type is known, or no cell stays.
    """
    if least <= 1:
        return source
    labels_n = _known_labels(source, f"min_cells_per_type {least}")
    types, sizes = np.unique(labels_n[labels_n != ""], return_counts=True)
    keep_n = ~np.isin(labels_n, types[sizes < least])
    if not keep_n.any():
        raise InputError(f"No type in {source.name} has {least} cells; lower min_cells_per_type.")
    return take_cells(source, np.flatnonzero(keep_n))


def _known_labels(source: Source, why: str) -> np.ndarray:
    if source.labels_n is None or not (source.labels_n != "").any():
        raise InputError(f"{source.name} has no known types, which {why} needs; name them with labels_key.")
    return source.labels_n


def _n_types(labels_n: np.ndarray) -> int:
    return len(np.unique(labels_n[labels_n != ""]))


def execute(run: BenchmarkRun, options: RunOptions) -> Figures:
    """Do a run, or resume an interrupted one, and write its categories to a file.

    Returns:
        The figures of its row.

    Raises:
        InputError: the cells do not fit the settings.
        TrainingError: training failed.
    """
    source, config = load_cells(run), run.config
    n_types = None if source.labels_n is None else _n_types(source.labels_n)
    if run.k_from_types:
        k = _n_types(_known_labels(source, f"entry '{run.entry.name}' without n_categories"))
        config = config.model_copy(update={"model": config.model.model_copy(update={"n_categories": k})})
    config = config.model_copy(
        update={"placement": config.placement.model_copy(update={"engine": "local", "threads": options.threads})}
    )
    with threadpool_limits(options.threads):
        find = _train if run.entry.method == "cplmix" else _cluster
        category_n, points_np, figures = find(run, config, source, options)
        figures |= batch_figures(source, run, category_n, points_np)
    small_n = category_n.astype(np.uint8 if category_n.max() < 256 else np.uint32)
    write_whole(categories_file(options.out, run.key), lambda partial: _save(partial, small_n))
    return {
        "n_categories": config.model.n_categories,
        **figures,
        "version": __version__,
        "name": run.entry.name,
        "data": run.data,
        "method": run.entry.method,
        "seed": config.seed,
        "hash": run.hash,
        "n_cells": source.n_cells,
        "n_types": n_types,
        "settings": run.settings,
    }


def _save(path: Path, category_n: np.ndarray) -> None:
    with open(path, "wb") as file:  # of a path, NumPy would change the suffix
        np.savez_compressed(file, category_n=category_n)


def _train(run: BenchmarkRun, config: CplMixVAEConfig, source: Source, options: RunOptions) -> Found:
    folder = RunFolder(options.out / "runs" / f"{run.entry.name}-{run.hash}" / f"seed-{config.seed}")
    dataset = build_dataset(source, config)
    with lock_folder(folder.path):
        checkpoint = None
        if folder.holds_run():
            checkpoint = checkpoint_to_resume(folder, config, dataset, lambda line: None, restart_damaged=True)
        result = run_training(config, dataset, folder, _Quiet(), checkpoint)
        figures = {**result.metrics, **held_out_losses(result.model, dataset), "coupling": config.objective.coupling}
        if not options.keep_models:
            shutil.rmtree(folder.checkpoints)
    probs_nk = result.outputs["probs_nk"]
    return probs_nk.argmax(axis=1), joint_coordinates(probs_nk, result.outputs["state_nd"]), figures


def _cluster(run: BenchmarkRun, config: CplMixVAEConfig, source: Source, options: RunOptions) -> Found:
    k = None if config.model.n_categories == "auto" else config.model.n_categories
    begun = time.perf_counter()
    with torch_threads(options.threads):
        found = find_clusters(run.entry.method, source, k, config, run.entry.baseline)
    seconds = time.perf_counter() - begun
    scores = {} if source.labels_n is None else label_scores(source.labels_n, found.category_n)
    populated = len(np.unique(found.category_n))
    figures = {**scores, "populated": populated, "seconds": seconds, "detail": found.detail}
    if k is None or run.entry.method in CHOOSE_NUMBER:
        figures["n_categories"] = populated
    return found.category_n, found.points_np, figures


def batch_figures(source: Source, run: BenchmarkRun, category_n: np.ndarray, points_np: np.ndarray | None) -> Figures:
    """How mixed the batches are that the entry names, whether the run received them or not; nothing without batches.

    Args:
        points_np: coordinates of the cells; None leaves out what needs them, as does a missing scib-metrics.

    Raises:
        InputError: there is no such column.
    """
    batch_n = batches_of(source, run.entry.batch_key or run.config.input.batch_key)
    if batch_n is None:
        return {}
    figures = {"batch_nmi": float(normalized_mutual_info_score(batch_n, category_n))}
    if points_np is not None and can_score_integration():
        figures |= integration_scores(points_np, batch_n, source.labels_n, run.config.seed)
    return figures


@torch.no_grad()
def held_out_losses(model: TrainedModel, data: Dataset) -> Figures:
    """val_reconstruction and val_loss (see docs/metrics.md), at the mean state."""
    idx_n = data.training.val_idx
    if not len(idx_n):
        return {}
    arms, config = model.model, model.config
    assert isinstance(arms, CoupledArms)
    assert isinstance(config, CplMixVAEConfig)
    network, rows = arms.network, row_reader(data.training.matrix, arms.device)
    network.eval()
    total, reconstruction = 0.0, 0.0
    for part in np.array_split(idx_n, -(-len(idx_n) // 2048)):
        cells = [rows(torch.as_tensor(part))] * network.n_arms
        encoded = network.encode(cells)
        q_ank = encoded.log_q_ank.exp()
        mu_and, log_var_and = network.state(encoded.z_anb, q_ank, cells)
        lost_a = network.reconstruction(cells, mu_and, q_ank) * len(part)
        own_an = config.objective.beta * state_kl(mu_and, log_var_and) - categorical_entropy(encoded.log_q_ank)
        reconstruction += float(lost_a.mean())
        total += float((lost_a + own_an.sum(-1)).mean())
    return {"val_reconstruction": reconstruction / len(idx_n), "val_loss": total / len(idx_n)}


class _Quiet:
    """Progress that shows nothing: the benchmark reports when a run ends."""

    def say(self, line: str) -> None:
        """Nothing."""

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """Nothing."""
