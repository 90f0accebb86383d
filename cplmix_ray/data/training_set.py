"""Prepared cells, and what the workers of a run receive of a data set: modalities and splits, never labels.

Workers import this file and not those that read or prepare cells.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.preprocessing.preparation import Preparation

MAIN = "main"
"""Name of the modality of a data set that has one."""


@dataclass(frozen=True)
class Modality:
    """One kind of measurement of the cells.

    Attributes:
        matrix: prepared values, cells x features; read-only, as all workers of a node share them.
        preparation: how the values were prepared.
        present_n: (n,) which cells were measured; the others have rows of no meaning. None: all.
    """

    matrix: Matrix
    preparation: Preparation
    present_n: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedCells:
    """Cells as a model takes them, the same rows in every modality.

    Attributes:
        modalities: name -> measurements of all cells; the pairing mask of a modality says which cells have it.
        covariates: column of obs -> (n,) its values, encoded as :class:`cplmix_ray.data.covariates.Covariate` says.
    """

    modalities: Mapping[str, Modality]
    covariates: Mapping[str, np.ndarray] = field(default_factory=dict, kw_only=True)

    @property
    def n_cells(self) -> int:
        return self.main.matrix.n_cells

    @property
    def main(self) -> Modality:
        """The modality named ``main``, or the first."""
        return self.modalities.get(MAIN) or next(iter(self.modalities.values()))

    @property
    def matrix(self) -> Matrix:
        return self.main.matrix

    @property
    def preparation(self) -> Preparation:
        return self.main.preparation

    @property
    def preparations(self) -> dict[str, Preparation]:
        """Modality -> how its values were prepared."""
        return {name: modality.preparation for name, modality in self.modalities.items()}


@dataclass(frozen=True)
class TrainingSet(PreparedCells):
    """The cells of a run.

    Attributes:
        train_idx, val_idx: rows for training and for validation, ascending.
        tables: what the model family computed from the cells before training, such as neighbors; None for nothing.
    """

    train_idx: np.ndarray
    val_idx: np.ndarray
    tables: Any = None
