"""A data set ready for training: what the driver keeps, and the part of it that workers see."""

import os
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cplmix_ray.clusters import Ensemble, build_ensemble
from cplmix_ray.config import Config
from cplmix_ray.data.cells import read_h5ad, source_from_anndata
from cplmix_ray.data.fit import Fitted, fit_preparation
from cplmix_ray.data.images import read_digits, read_npz
from cplmix_ray.data.neighbours import nearest, principal_components
from cplmix_ray.data.preparation import Preparation, check_finite
from cplmix_ray.data.source import Source, Values
from cplmix_ray.data.split import split_cells
from cplmix_ray.data.views import views_of
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
        guess: (n,) first guess of every training cell's category, -1 for other cells; None where none is learned.
    """

    values_ng: Values
    train_idx: np.ndarray
    val_idx: np.ndarray
    neighbours: np.ndarray | None
    preparation: Preparation
    guess: np.ndarray | None = None


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


def build_dataset(source: Source, config: Config) -> Dataset:
    """Check, prepare, split, and find neighbours.

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
    ensemble = _ensemble(fitted, source, train_idx, config) if config.needs_ensemble else None
    neighbours = None
    if "neighbours" in copies_for(config, fitted.preparation):
        if ensemble is not None and config.copies.neighbour_space == "ensemble":
            points = ensemble.points_nk
        else:
            log_values_ng = fitted.log_values_ng[train_idx]
            points = principal_components(log_values_ng, config.copies.neighbour_pcs, config.seed)
        neighbours = _neighbours_of_training_cells(points, source.n_cells, train_idx, config)
    guess = None
    if ensemble is not None and config.alignment.align_guess > 0:
        guess = np.full(source.n_cells, -1, dtype=np.int64)
        guess[train_idx] = ensemble.guess_n
    training = TrainingSet(fitted.values_ng, train_idx, val_idx, neighbours, fitted.preparation, guess)
    return Dataset(training, source.labels_n, source.name, fitted.notes)


def copies_for(config: Config, preparation: Preparation) -> tuple[str, ...]:
    """The kinds of copies with 'auto' resolved for this kind of data.

    Raises:
        InputError: a kind does not fit the data.
    """
    fitting = {
        "images": ("neighbours", "affine"),
        "counts": ("neighbours", "thinning"),
        "log": ("neighbours", "gene_dropout"),
    }[preparation.kind]
    kinds = config.copies.copies
    if kinds == ("auto",):
        return fitting
    for kind in kinds:
        if kind not in fitting and kind != "none":
            what = {"images": "images", "counts": "raw counts", "log": "log-expression"}[preparation.kind]
            raise InputError(f"--copies {kind} does not fit {what}; choose among {', '.join(fitting)} and none.")
    return tuple(kind for kind in kinds if kind != "none")


def _neighbours_of_training_cells(
    points_np: np.ndarray, n_cells: int, train_idx: np.ndarray, config: Config
) -> np.ndarray:
    """Table over all rows, so that it is indexed by row; rows outside the training set point to themselves."""
    near = nearest(points_np, config.copies.n_neighbours)
    table = np.repeat(np.arange(n_cells)[:, None], near.shape[1], axis=1)
    table[train_idx] = train_idx[near]
    return table


def _ensemble(fitted: Fitted, source: Source, train_idx: np.ndarray, config: Config) -> Ensemble:
    """Partitions of the training cells on the genes that the arms see."""
    if fitted.preparation.kind == "images":
        raise InputError("--neighbour-space ensemble and --align-guess are for cells; leave them out for images.")
    at = source.adata.var_names.get_indexer(list(fitted.preparation.var_names))
    log_ng = fitted.log_values_ng[:, at][train_idx]
    views = views_of(log_ng, _linear(fitted, source, log_ng, at, train_idx), config.seed)
    return build_ensemble(views, config.model.n_categories, config.seed)


def _linear(fitted: Fitted, source: Source, log_ng: Values, at: np.ndarray, train_idx: np.ndarray) -> Values | None:
    """Expression proportional to counts: as it was read where it was normalised here, else undoing the logarithm."""
    if fitted.preparation.kind == "counts" or fitted.preparation.target_sum is not None:
        return source.values_ng[:, at][train_idx]
    smallest, largest = float(log_ng.min()), float(log_ng.max())
    return None if smallest < 0 or largest > 30 else np.expm1(log_ng)
