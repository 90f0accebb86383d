"""A data set as the driver of a run keeps it: the training set with labels and notes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from cplmix_ray.data.source import Factors
from cplmix_ray.data.training_set import TrainingSet


@dataclass(frozen=True)
class Dataset:
    """A training set with what only the driver knows.

    Attributes:
        training: what the workers receive.
        labels_n: known types as strings, "" where unknown; None without labels.
        name: what to call the cells in messages.
        notes: what the user should know of the reading and the preparation.
        truth_nm: known continuous states, NaN where unknown; None without them.
        factors: what images were made from; None where that is not known.
        batch_n: batch of each cell; None without a batch key.
    """

    training: TrainingSet
    labels_n: np.ndarray | None
    name: str
    notes: tuple[str, ...] = ()
    truth_nm: np.ndarray | None = None
    factors: Factors | None = None
    batch_n: pd.Categorical | None = None

    @property
    def n_cells(self) -> int:
        return self.training.n_cells
