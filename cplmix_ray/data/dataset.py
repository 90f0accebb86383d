"""A data set ready for training: what the driver keeps, and the part of it that workers see."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cplmix_ray.config import Config
from cplmix_ray.data.cells import read_h5ad, source_from_anndata
from cplmix_ray.data.genes import highly_variable
from cplmix_ray.data.images import read_digits, read_npz
from cplmix_ray.data.neighbours import nearest, principal_components
from cplmix_ray.data.preparation import Preparation, check_finite, holds_counts, prepare, require_counts
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
    """

    values_ng: Values
    train_idx: np.ndarray
    val_idx: np.ndarray
    neighbours: np.ndarray | None
    preparation: Preparation


@dataclass(frozen=True)
class Dataset:
    """A training set with what only the driver knows: the user's object, the labels, and what there is to say."""

    source: Source
    training: TrainingSet
    notes: tuple[str, ...]


def read_source(data: str, layer: str | None = None, labels_key: str | None = None) -> Source:
    """Read 'digits', an `.npz` or an `.h5ad`.

    Raises:
        InputError: the file is missing, broken, or of another kind.
    """
    if data == "digits":
        return read_digits()
    import os

    if not os.path.exists(data):
        raise InputError(f"There is no file {data}; check the path given to --data.")
    if data.endswith(".npz"):
        return read_npz(data)
    if data.endswith((".h5ad", ".h5", ".hdf5")):
        return read_h5ad(data, layer, labels_key)
    raise InputError(f"--data {data} is neither an .h5ad file of cells nor an .npz file of images nor 'digits'.")


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
    if source.image_shape is not None:
        preparation, values, notes = _prepare_images(source, config)
    else:
        preparation, values, notes = _prepare_cells(source, config)
    neighbours = None
    if "neighbours" in copies_for(config, preparation):
        neighbours = _neighbours_of_training_cells(values, train_idx, preparation, config)
    return Dataset(source, TrainingSet(values, train_idx, val_idx, neighbours, preparation), tuple(notes))


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


def _prepare_images(source: Source, config: Config) -> tuple[Preparation, Values, list[str]]:
    if config.input.hvg is not None:
        raise InputError("--hvg chooses genes and means nothing for images; leave it out.")
    if config.model.likelihood in ("nb", "zinb"):
        raise InputError(f"--likelihood {config.model.likelihood} is for counts; images take bernoulli or gaussian.")
    lowest, highest = float(source.values_ng.min()), float(source.values_ng.max())
    if lowest < 0 or highest <= 0:
        raise InputError(f"The pixels of {source.name} range from {lowest:g} to {highest:g}; they must start at 0.")
    names = tuple(source.adata.var_names)
    preparation = Preparation("images", names, scale=highest, image_shape=source.image_shape)
    return preparation, prepare(source.values_ng, preparation), []


def _prepare_cells(source: Source, config: Config) -> tuple[Preparation, Values, list[str]]:
    likelihood, normalise = config.model.likelihood, config.input.normalise
    if likelihood == "bernoulli":
        raise InputError("--likelihood bernoulli is for images; cells take gaussian, nb or zinb.")
    values, names, notes = source.values_ng, source.adata.var_names, []
    counts = holds_counts(values)
    library_n = np.asarray(values.sum(axis=1), dtype=np.float64).ravel()
    target_sum = float(np.median(library_n[library_n > 0])) if (library_n > 0).any() else 1.0
    if likelihood in ("nb", "zinb"):
        require_counts(values, source, likelihood)
        if normalise == "log1p":
            raise InputError(f"--likelihood {likelihood} takes raw counts; leave out --normalise log1p.")
        full = Preparation("counts", tuple(names), library=target_sum)
    elif normalise == "log1p" or (normalise == "auto" and counts):
        if not counts and values.min() < 0:
            raise InputError(f"{source.name} holds negative values, so it cannot be normalised; use --normalise none.")
        if normalise == "auto":
            notes.append(f"{source.name} holds raw counts: cells are scaled to {target_sum:g} and log1p is taken.")
        elif not counts:
            notes.append("--normalise log1p was asked for, but the values are no counts: are they normalised already?")
        full = Preparation("log", tuple(names), target_sum=target_sum)
    else:
        full = Preparation("log", tuple(names))
        if counts:
            notes.append("The values look like raw counts and are taken as they are; --normalise log1p is usual.")
        elif values.max() > 50:
            notes.append(f"The largest value is {values.max():g}: if these are no logarithms, use --normalise log1p.")
    prepared = prepare(values, full)
    if config.input.hvg is not None:
        logged = prepared if full.kind == "log" else prepare(values, Preparation("log", (), target_sum=target_sum))
        keep = highly_variable(logged, config.input.hvg)
        prepared = prepared[:, keep]
        full = Preparation(full.kind, tuple(names[keep]), full.target_sum, full.scale, full.library)
    return full, prepared, notes


def _neighbours_of_training_cells(
    values: Values, train_idx: np.ndarray, preparation: Preparation, config: Config
) -> np.ndarray:
    """Table over all rows, so that it is indexed by row; rows outside the training set point to themselves."""
    chosen = values[train_idx]
    if preparation.kind == "counts":
        chosen = prepare(chosen, Preparation("log", (), target_sum=preparation.library))
    points = principal_components(chosen, config.copies.neighbour_pcs, config.seed)
    near = nearest(points, config.copies.n_neighbours)
    table = np.repeat(np.arange(values.shape[0])[:, None], near.shape[1], axis=1)
    table[train_idx] = train_idx[near]
    return table
