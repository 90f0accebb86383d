"""The stages of a pruning: each is a run folder with the model of fewer categories and a table of these."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.evaluation.trained_model import TrainedModel, newest_checkpoint, settings_of
from cplmix_ray.models.registry import family_of
from cplmix_ray.pruning.measures import HeldOut, measure
from cplmix_ray.runs.run import run_training

Row = dict[str, Any]
_TABLE = "categories"


class _Silent:
    """Progress of a stage, of which its row alone is shown."""

    def say(self, line: str) -> None: ...
    def advance(self, step: int, figures: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Workbench:
    """What all stages have in common.

    Attributes:
        data: the cells, prepared as those of the run.
        held_out: those that no arm was trained on.
        steps: number of training steps after a removal.
        lr: their learning rate.
    """

    data: Dataset
    held_out: HeldOut
    steps: int
    lr: float

    def retrain(self, before: RunFolder, removed: Collection[int], folder: RunFolder) -> Row:
        """Remove categories from the model of the stage ``before``, train the others on, and measure the result.

        The prior of the categories, where the arms have one, is their abundance at the start of the training.
        """
        checkpoint = newest_checkpoint(before.path)
        family = family_of(settings_of(checkpoint))
        config, parts = family.without_categories(settings_of(checkpoint), checkpoint.parts, removed)
        training = {
            "max_steps": checkpoint.step + self.steps,
            "epochs": None,
            "lr": self.lr,
            "lr_schedule": "constant",
            "keep_checkpoints": 1,
        }
        config = config.with_settings(training=training, placement={"engine": "local"})
        cells = self.data.training
        model = TrainedModel.from_parts(config, cells.preparations, parts, checkpoint.step)
        category_n = model.infer(cells, ("probs_nk",))["probs_nk"].argmax(1)
        data = replace(self.data, training=family.with_categories(cells, category_n))
        run = run_training(config, data, folder, _Silent(), replace(checkpoint, parts=parts))
        of_run = np.delete(categories_of(before)["of_run"].to_numpy(), list(removed))
        return self.measured(run.model, run.outputs, folder, of_run)

    def measured(
        self, model: TrainedModel, outputs: Mapping[str, np.ndarray], folder: RunFolder, of_run: np.ndarray
    ) -> Row:
        """Measure the model of a stage and write the table of its categories.

        Args:
            of_run: the number that each category has in the run that is pruned.
        """
        row, table = measure(model, outputs["log_q_ank"], outputs["probs_nk"], self.data, self.held_out)
        table.insert(1, "of_run", of_run)
        folder.write_table(_TABLE, table)
        return row


def categories_of(folder: RunFolder) -> pd.DataFrame:
    """The table of a stage's categories."""
    return pd.read_csv(folder.path / f"{_TABLE}.csv", float_precision="round_trip")


def weakest_first(table: pd.DataFrame) -> list[int]:
    """Categories in the order of their consensus, the weakest first; of equal ones, that of fewer cells."""
    return [int(k) for k in np.lexsort((table["cells"], table["consensus"]))]


def alternatives(table: pd.DataFrame, n_removed: int, n_alternatives: int) -> list[list[int]]:
    """Groups of categories that a stage may remove, each ascending: the weakest ones, and the same with the next weaker
    one in place of the strongest of them."""
    order = weakest_first(table)
    last = order[n_removed - 1 : n_removed - 1 + n_alternatives]
    return [sorted([*order[: n_removed - 1], each]) for each in last]
