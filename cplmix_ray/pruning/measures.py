"""What is measured of the model of a stage: consensus on each category, agreement, reconstruction, scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.neighbors.shares import halves_of_cells
from cplmix_ray.data.source import Source
from cplmix_ray.data.training_set import MAIN, Modality, PreparedCells, TrainingSet
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.metrics.category_consensus import consensus_of_categories, partners
from cplmix_ray.metrics.category_scores import agreement_of_arms, consensus_of_arms, label_scores

_HALVED = 5_000
"""Held-out cells, at most, whose molecules are divided."""


@dataclass(frozen=True)
class HeldOut:
    """Cells that no arm was trained on; all cells if there are none.

    Attributes:
        cells: as they are.
        halves: some of them twice, each time with one random half of their molecules; None without counts.
    """

    cells: PreparedCells
    halves: tuple[PreparedCells, PreparedCells] | None

    @classmethod
    def of(cls, source: Source, data: TrainingSet, seed: int) -> "HeldOut":
        """The validation cells of a data set that was prepared from ``source``."""
        idx = data.val_idx if len(data.val_idx) else np.arange(data.n_cells)
        main, preparation = data.main, data.preparation
        cells = _cells(data, idx, main.matrix.take(idx))
        counted = preparation.target_sum is not None and source.matrix.statistics.counts
        if preparation.kind == "images" or not (counted or preparation.kind == "counts"):
            return cls(cells, None)
        if len(idx) > _HALVED:
            idx = np.sort(np.random.default_rng(seed).choice(idx, _HALVED, replace=False))
        at = source.var_names.get_indexer(list(preparation.var_names))
        counts_ng, values_ng = source.matrix.choose(at).take(idx).block(), main.matrix.take(idx).block()
        if preparation.kind == "counts":
            halves = [np.expm1(half) for half in halves_of_cells(np.log1p(values_ng), counts_ng, 2, seed)]
        else:
            halves = list(halves_of_cells(values_ng, counts_ng, 2, seed))
        first, second = (_cells(data, idx, InMemoryMatrix(half)) for half in halves)
        return cls(cells, (first, second))


def _cells(data: TrainingSet, idx: np.ndarray, matrix: Matrix) -> PreparedCells:
    covariates = {name: values_n[idx] for name, values_n in data.covariates.items()}
    return PreparedCells({MAIN: Modality(matrix, data.preparation)}, covariates=covariates)


def measure(
    model: TrainedModel, log_q_ank: np.ndarray, probs_nk: np.ndarray, data: Dataset, held_out: HeldOut
) -> tuple[dict[str, Any], pd.DataFrame]:
    """A row of figures of a model, and a table with a row for each of its categories.

    Args:
        log_q_ank, probs_nk: posteriors of all cells, of the arms and their consensus.
    """
    assigned_an, category_n, n_categories = log_q_ank.argmax(-1), probs_nk.argmax(-1), probs_nk.shape[-1]
    consensus_k = consensus_of_categories(assigned_an, n_categories)
    cells_k = np.bincount(category_n, minlength=n_categories)
    losses = model.infer(held_out.cells, ("reconstruction_a",))["reconstruction_a"]
    row = {
        "categories": n_categories,
        "min_consensus": consensus_k.min(),
        "mean_consensus": consensus_k.mean(),
        "consensus": consensus_of_arms(assigned_an),
        "agreement": agreement_of_arms(assigned_an),
        "agreement_of_halves": None,
        "val_reconstruction": float(losses.mean()),
        "smallest_category": int(cells_k.min()),
    }
    if held_out.halves is not None:
        halves = [model.infer(half, ("probs_nk",))["probs_nk"].argmax(-1) for half in held_out.halves]
        row["agreement_of_halves"] = agreement_of_arms(np.stack(halves))
    scores = {} if data.labels_n is None else label_scores(data.labels_n, category_n)
    row |= {name: scores.get(name) for name in ("acc", "ari")}
    table = pd.DataFrame(
        {
            "category": np.arange(n_categories),
            "cells": cells_k,
            "consensus": consensus_k,
            "confused_with": partners(assigned_an, n_categories),
        }
    )
    return row, table
