"""A data set ready for training: what the driver keeps, and the part of it that workers see."""

import os
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cplmix_ray.config import Config
from cplmix_ray.config.schema import Input
from cplmix_ray.data.alike import find_alike
from cplmix_ray.data.cells import read_h5ad, source_from_anndata
from cplmix_ray.data.cortex import is_table, join_metadata, read_csv_cells
from cplmix_ray.data.fit import fit_preparation
from cplmix_ray.data.images import read_digits, read_npz
from cplmix_ray.data.metadata import read_metadata
from cplmix_ray.data.preparation import Preparation, check_finite
from cplmix_ray.data.source import Source, Values
from cplmix_ray.data.split import split_cells
from cplmix_ray.errors import InputError

__all__ = ["Dataset", "TrainingSet", "build_dataset", "dense_rows", "read_input", "read_source", "source_from_anndata"]


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
        notes: what the user should know of the reading and the preparation.
        truth_nm: known continuous states, NaN where unknown; None without them.
    """

    training: TrainingSet
    labels_n: np.ndarray | None
    name: str
    notes: tuple[str, ...] = ()
    truth_nm: np.ndarray | None = None

    @property
    def n_cells(self) -> int:
        return self.training.values_ng.shape[0]


def read_source(
    data: str,
    layer: str | None = None,
    labels_key: str | None = None,
    metadata: str | None = None,
    state_key: tuple[str, ...] = (),
) -> Source:
    """Read 'digits', an `.npz`, an `.h5ad` or `.csv` files.

    Raises:
        InputError: the file is missing, broken, or of another kind.
    """
    if data == "digits":
        return _plain(read_digits(), layer, labels_key, metadata, state_key)
    if is_table(data):
        adata, notes = read_csv_cells(data, metadata)
        return source_from_anndata(adata, layer, labels_key, data, state_key, notes)
    if not os.path.exists(data):
        raise InputError(f"There is no file {data}; check the path given to --data.")
    if data.endswith(".npz"):
        return _plain(read_npz(data), layer, labels_key, metadata, state_key)
    if data.endswith((".h5ad", ".h5", ".hdf5")):
        adata, notes = read_h5ad(data), ()
        if metadata is not None:
            adata, notes = join_metadata(adata, read_metadata(metadata), data, metadata)
        return source_from_anndata(adata, layer, labels_key, data, state_key, notes)
    raise InputError(
        f"--data {data} is neither an .h5ad or .csv file of cells nor an .npz file of images nor 'digits'."
    )


def read_input(given: Input) -> Source:
    """Read what the settings of a run name.

    Raises:
        InputError: the file is missing, broken, or of another kind.
    """
    return read_source(given.data, given.layer, given.labels_key, given.metadata, given.state_key)


def _plain(
    images: Source, layer: str | None, labels_key: str | None, metadata: str | None, state_key: tuple[str, ...]
) -> Source:
    """Images have no layers, and their labels go by the one name 'label'."""
    if layer is not None:
        raise InputError(f"{images.name} holds images, which have no layer '{layer}'; leave out --layer.")
    if metadata is not None or state_key:
        option = "--state-key" if metadata is None else "--metadata"
        raise InputError(f"{images.name} holds images, for which {option} means nothing; leave it out.")
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
    alike = find_alike(fitted, source, train_idx, config, "neighbours" in copies_for(config, fitted.preparation))
    training = TrainingSet(
        fitted.values_ng, train_idx, val_idx, alike.neighbours, fitted.preparation, guess=alike.guess
    )
    return Dataset(training, source.labels_n, source.name, (*source.notes, *fitted.notes), source.truth_nm)


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
