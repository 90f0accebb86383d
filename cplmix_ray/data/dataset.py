"""A data set ready for training: what the driver keeps, and the part of it that workers see."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from cplmix_ray.config import Config
from cplmix_ray.data.alike import find_alike
from cplmix_ray.data.augmenter_file import FrozenAugmenter, read_augmenter
from cplmix_ray.data.cells import source_from_anndata
from cplmix_ray.data.fit import fit_preparation
from cplmix_ray.data.lazy import LazyRows
from cplmix_ray.data.preparation import Preparation, check_finite
from cplmix_ray.data.read import read_input, read_source
from cplmix_ray.data.source import Factors, Source, Values
from cplmix_ray.data.split import split_cells
from cplmix_ray.errors import InputError

_FITTING = {
    "images": ("neighbours", "affine", "centre", "standardise", "move", "pose", "learned"),
    "counts": ("neighbours", "thinning"),
    "log": ("neighbours", "gene_dropout", "learned"),
}
"""Kinds of copies that fit a kind of data; the first two are the usual ones."""

__all__ = ["Dataset", "TrainingSet", "build_dataset", "dense_rows", "read_input", "read_source", "source_from_anndata"]


@dataclass(frozen=True)
class TrainingSet:
    """What an arm may see: cells and their neighbours, never a label.

    Attributes:
        values_ng: prepared values, dense or CSR float32, or rows made on demand; read-only, as all arms of a
            node share them.
        train_idx, val_idx: rows for training and for validation.
        neighbours: (n, k) rows of training cells near each training cell, None where copies need none.
        preparation: how the values were made.
        guess: (n,) first guess of every training cell's category, -1 for other cells; None where none is learned.
        augmenter: makes learned copies, None where there are none; it travels with the cells, as workers read no file.
    """

    values_ng: Values
    train_idx: np.ndarray
    val_idx: np.ndarray
    neighbours: np.ndarray | None
    preparation: Preparation
    augmenter: FrozenAugmenter | None = None
    guess: np.ndarray | None = None


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


def dense_rows(values_ng: Values, idx_n: np.ndarray) -> np.ndarray:
    """Rows as a dense float32 array; the only place where sparse data is filled in and lazy rows are made."""
    if isinstance(values_ng, LazyRows):
        return values_ng.rows(idx_n)
    rows = values_ng[idx_n]
    return rows.toarray() if sp.issparse(rows) else np.ascontiguousarray(rows)


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
    train_idx, val_idx = split_cells(source.n_cells, config.input.val_fraction, config.seed, source.held_out_n)
    fitted = fit_preparation(source, config)
    kinds, augmenter = copies_for(config, fitted.preparation, fitted.values_ng), None
    if "learned" in kinds:
        augmenter = read_augmenter(Path(root) / str(config.copies.augmenter))
        augmenter.require_fit(fitted.preparation, source.name)
    alike = find_alike(fitted, source, train_idx, config, "neighbours" in kinds)
    training = TrainingSet(
        fitted.values_ng, train_idx, val_idx, alike.neighbours, fitted.preparation, augmenter, alike.guess
    )
    notes = (*source.notes, *fitted.notes)
    return Dataset(training, source.labels_n, source.name, notes, source.truth_nm, source.factors)


def copies_for(config: Config, preparation: Preparation, values_ng: Values = None) -> tuple[str, ...]:
    """The kinds of copies with 'auto' resolved for this kind of data.

    Neighbours of lazy rows are not sought: each image would have to be made and compared with the others.

    Raises:
        InputError: a kind does not fit the data.
    """
    kinds, fitting = config.copies.copies, _FITTING[preparation.kind]
    lazy = isinstance(values_ng, LazyRows)
    if kinds == ("auto",):
        return ("affine",) if lazy else fitting[:2]
    for kind in kinds:
        if kind not in fitting and kind != "none":
            what = {"images": "images", "counts": "raw counts", "log": "log-expression"}[preparation.kind]
            raise InputError(f"--copies {kind} does not fit {what}; choose among {', '.join(fitting)} and none.")
    if lazy and "neighbours" in kinds:
        raise InputError(
            "--copies neighbours compares images that are all in memory, and these are made as they are read; "
            f"choose among {', '.join(fitting[1:])} and none."
        )
    return tuple(kind for kind in kinds if kind != "none")
