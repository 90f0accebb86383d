"""The stages of a pruning: each is a run folder with the model of fewer categories and a table of these."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.evaluation.trained_model import TrainedModel, newest_checkpoint, settings_of
from cplmix_ray.models.registry import family_of
from cplmix_ray.pruning.measures import HeldOut, measure
from cplmix_ray.runs.callbacks import Progress
from cplmix_ray.runs.run import run_training

Row = dict[str, Any]
_TABLE = "categories"


@dataclass(frozen=True)
class Stages:
    """The folder of a pruning with those of its stages."""

    out: Path

    def folder(self, n_categories: int) -> RunFolder:
        """The run folder of a stage."""
        return RunFolder(self.out / "stages" / f"k-{n_categories:03d}")


@dataclass(frozen=True)
class Retraining:
    """How models are trained after categories were removed.

    Attributes:
        steps: number of training steps.
        lr: constant learning rate.
    """

    steps: int
    lr: float


def retrain(
    before: RunFolder,
    removed: Collection[int],
    folder: RunFolder,
    data: Dataset,
    held_out: HeldOut,
    retraining: Retraining,
    progress: Progress,
) -> Row:
    """Remove categories from the model of ``before``, train the rest on, and return what is measured of it.

    The table of its categories is in ``folder``; the column ``of_run`` has the numbers that they had in the run.
    """
    checkpoint = newest_checkpoint(before.path)
    config = settings_of(checkpoint)
    config, parts = family_of(config).without_categories(config, checkpoint.parts, removed)
    training = {
        "max_steps": checkpoint.step + retraining.steps,
        "epochs": None,
        "lr": retraining.lr,
        "lr_schedule": "constant",
        "keep_checkpoints": 1,
    }
    config = config.with_settings(training=training, placement={"engine": "local"})
    run = run_training(config, data, folder, progress, replace(checkpoint, parts=parts))
    names = np.delete(categories_of(before)["of_run"].to_numpy(), list(removed))
    return measured(run.model, run.outputs, folder, names, data, held_out)


def measured(
    model: TrainedModel, outputs: Any, folder: RunFolder, of_run: np.ndarray, data: Dataset, held_out: HeldOut
) -> Row:
    """Measure the model of a stage and write the table of its categories."""
    row, table = measure(model, outputs["log_q_ank"], outputs["probs_nk"], data, held_out)
    table.insert(1, "of_run", of_run)
    folder.write_table(_TABLE, table)
    return row


def categories_of(folder: RunFolder) -> pd.DataFrame:
    """The table of a stage's categories."""
    return pd.read_csv(folder.path / f"{_TABLE}.csv", float_precision="round_trip")


def weakest_first(table: pd.DataFrame) -> np.ndarray:
    """Categories in the order of their consensus, the weakest first; of equal ones, that of fewer cells."""
    return np.lexsort((table["cells"], table["consensus"]))
