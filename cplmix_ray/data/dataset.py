"""A data set ready for training, made of what was read: what the driver keeps, and what workers see of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cplmix_ray.config import Config
from cplmix_ray.data.io.augmenter_file import read_augmenter
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.read import read_input, read_source, settle_disk
from cplmix_ray.data.matrix.on_disk import NO_MATRIX, RowsOnDisk
from cplmix_ray.data.neighbors.graph import find_alike
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.preparation import check_finite
from cplmix_ray.data.source import Factors, Source
from cplmix_ray.data.split import split_source
from cplmix_ray.data.training_set import TrainingSet, copies_for
from cplmix_ray.utils.errors import InputError

__all__ = ["Dataset", "build_dataset", "read_input", "read_source", "settle_disk", "source_from_anndata"]


@dataclass(frozen=True)
class Dataset:
    """A training set with what only the driver knows.

    Attributes:
        training: what the arms see.
        labels_n: known types as strings, "" where unknown; None without labels.
        name: what to call the cells in messages.
        notes: what the user should know of the reading and the preparation.
        truth_nm: known continuous states, NaN where unknown; None without them.
        factors: what images were made from; None where that is not known.
    """

    training: TrainingSet
    labels_n: np.ndarray | None
    name: str
    notes: tuple[str, ...] = ()
    truth_nm: np.ndarray | None = None
    factors: Factors | None = None

    @property
    def n_cells(self) -> int:
        return self.training.values_ng.shape[0]


def build_dataset(source: Source, config: Config, root: str | Path = "") -> Dataset:
    """Check, prepare, split, find neighbours, and read the augmenter.

    Args:
        root: folder from which a relative --augmenter counts, where it is not the present one.

    Raises:
        InputError: the values do not fit the likelihood, or there are fewer cells than categories.
    """
    if source.n_cells < config.model.n_categories:
        raise InputError(
            f"{source.name} has {source.n_cells} cells, fewer than --n-categories {config.model.n_categories}; "
            f"lower K or give more cells."
        )
    check_finite(source.values_ng, source)
    train_idx, val_idx = split_source(source, config.input.val_fraction, config.seed)
    fitted = fit_preparation(source, config)
    kinds, augmenter = copies_for(config, fitted.preparation, fitted.values_ng), None
    if "learned" in kinds:
        augmenter = read_augmenter(Path(root) / str(config.copies.augmenter))
        augmenter.require_fit(fitted.preparation, source.name)
    alike = find_alike(fitted, source, train_idx, config, "neighbours" in kinds)
    training = TrainingSet(
        fitted.values_ng, train_idx, val_idx, alike.neighbours, fitted.preparation, augmenter, alike.guess, alike.places
    )
    notes = (*source.notes, *fitted.notes, *_of_disk(training))
    return Dataset(training, source.labels_n, source.name, notes, source.truth_nm, source.factors)


def _of_disk(training: TrainingSet) -> tuple[str, ...]:
    """What is otherwise where cells stay on disk."""
    values_ng, n_train = training.values_ng, len(training.train_idx)
    if not isinstance(values_ng, RowsOnDisk):
        return ()
    if training.places is None or n_train <= values_ng.buffer_cells:
        return (NO_MATRIX,)
    return (
        NO_MATRIX,
        f"Neighbours of a cell are sought among the {values_ng.buffer_cells:,} cells that are in memory with it.",
    )
