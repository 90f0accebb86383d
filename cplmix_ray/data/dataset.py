"""A data set ready for training: what the driver keeps, and the part of it that workers see."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from cplmix_ray.config import Config
from cplmix_ray.data.augmenter_file import FrozenAugmenter, read_augmenter
from cplmix_ray.data.cells import read_h5ad, source_from_anndata
from cplmix_ray.data.fit import fit_preparation
from cplmix_ray.data.images import read_digits, read_npz
from cplmix_ray.data.neighbours import nearest, principal_components
from cplmix_ray.data.preparation import Preparation, check_finite
from cplmix_ray.data.source import Source, Values
from cplmix_ray.data.split import split_cells
from cplmix_ray.errors import InputError

__all__ = ["Dataset", "TrainingSet", "build_dataset", "dense_rows", "read_source", "source_from_anndata"]


@dataclass(frozen=True)
class TrainingSet:
    """What an arm may see: cells and their neighbours, never a label.

    Attributes:
        values_ng: prepared values, dense float32 or CSR float32; read-only, as all arms of a node share them.
        train_idx, val_idx: rows for training and for validation.
        neighbours: (n, k) rows of training cells near each training cell, None where copies need none.
        preparation: how the values were made.
        augmenter: makes learned copies, None where there are none; it travels with the cells, as workers read no file.
    """

    values_ng: Values
    train_idx: np.ndarray
    val_idx: np.ndarray
    neighbours: np.ndarray | None
    preparation: Preparation
    augmenter: FrozenAugmenter | None = None


@dataclass(frozen=True)
class Dataset:
    """A training set with what only the driver knows.

    Attributes:
        training: what the arms see.
        labels_n: known types as strings, "" where unknown; None without labels.
        name: what to call the cells in messages.
        notes: what the user should know of the preparation.
    """

    training: TrainingSet
    labels_n: np.ndarray | None
    name: str
    notes: tuple[str, ...] = ()

    @property
    def n_cells(self) -> int:
        return self.training.values_ng.shape[0]


def read_source(data: str, layer: str | None = None, labels_key: str | None = None) -> Source:
    """Read 'digits', an `.npz` or an `.h5ad`.

    Raises:
        InputError: the file is missing, broken, or of another kind.
    """
    if data == "digits":
        return _plain(read_digits(), layer, labels_key)
    if not os.path.exists(data):
        raise InputError(f"There is no file {data}; check the path given to --data.")
    if data.endswith(".npz"):
        return _plain(read_npz(data), layer, labels_key)
    if data.endswith((".h5ad", ".h5", ".hdf5")):
        return read_h5ad(data, layer, labels_key)
    raise InputError(f"--data {data} is neither an .h5ad file of cells nor an .npz file of images nor 'digits'.")


def _plain(images: Source, layer: str | None, labels_key: str | None) -> Source:
    """Images have no layers, and their labels go by the one name 'label'."""
    if layer is not None:
        raise InputError(f"{images.name} holds images, which have no layer '{layer}'; leave out --layer.")
    if labels_key not in (None, "label") or (labels_key == "label" and images.labels_n is None):
        raise InputError(f"{images.name} holds images; labels come from its y arrays, not from '{labels_key}'.")
    return images


def dense_rows(values_ng: Values, idx_n: np.ndarray) -> np.ndarray:
    """Rows as a dense float32 array; the only place where sparse data is filled in."""
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
    kinds = copies_for(config, fitted.preparation)
    neighbours, augmenter = None, None
    if "learned" in kinds:
        augmenter = read_augmenter(Path(root) / str(config.copies.augmenter))
        augmenter.require_fit(fitted.preparation, source.name)
    if "neighbours" in kinds:
        neighbours = _neighbours_of_training_cells(fitted.log_values_ng, train_idx, config)
    training = TrainingSet(fitted.values_ng, train_idx, val_idx, neighbours, fitted.preparation, augmenter)
    return Dataset(training, source.labels_n, source.name, fitted.notes)


def copies_for(config: Config, preparation: Preparation) -> tuple[str, ...]:
    """The kinds of copies with 'auto' resolved for this kind of data.

    Raises:
        InputError: a kind does not fit the data.
    """
    usual = {
        "images": ("neighbours", "affine"),
        "counts": ("neighbours", "thinning"),
        "log": ("neighbours", "gene_dropout"),
    }[preparation.kind]
    kinds = config.copies.copies
    if kinds == ("auto",):
        return usual
    fitting = usual if preparation.kind == "counts" else (*usual, "learned")
    for kind in kinds:
        if kind not in fitting and kind != "none":
            what = {"images": "images", "counts": "raw counts", "log": "log-expression"}[preparation.kind]
            raise InputError(f"--copies {kind} does not fit {what}; choose among {', '.join(fitting)} and none.")
    return tuple(kind for kind in kinds if kind != "none")


def _neighbours_of_training_cells(log_values_ng: Values, train_idx: np.ndarray, config: Config) -> np.ndarray:
    """Table over all rows, so that it is indexed by row; rows outside the training set point to themselves."""
    points = principal_components(log_values_ng[train_idx], config.copies.neighbour_pcs, config.seed)
    near = nearest(points, config.copies.n_neighbours)
    table = np.repeat(np.arange(log_values_ng.shape[0])[:, None], near.shape[1], axis=1)
    table[train_idx] = train_idx[near]
    return table
