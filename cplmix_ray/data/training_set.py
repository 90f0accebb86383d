"""The part of a data set that arms see. Workers import this file and not those that read or prepare cells."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cplmix_ray.config import Config
from cplmix_ray.data.io.augmenter_file import FrozenAugmenter
from cplmix_ray.data.matrix.lazy import LazyRows
from cplmix_ray.data.matrix.on_disk import ReadRows
from cplmix_ray.data.neighbors.index import Places
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.source import Values
from cplmix_ray.utils.errors import InputError

_FITTING = {
    "images": ("neighbours", "affine", "centre", "standardise", "deskew", "move", "pose", "learned"),
    "counts": ("neighbours", "thinning"),
    "log": ("neighbours", "gene_dropout", "learned"),
}
"""Kinds of copies that fit a kind of data; the first two are the usual ones."""


@dataclass(frozen=True)
class TrainingSet:
    """What an arm may see: cells and their neighbours, never a label.

    Attributes:
        values_ng: prepared values, dense or CSR float32, or rows made or read on demand; read-only, as all arms of a
            node share them.
        train_idx, val_idx: rows for training and for validation.
        neighbours: (n, k) rows of training cells near each training cell, None where copies need none.
        preparation: how the values were made.
        guess: (n,) first guess of every training cell's category, -1 for other cells; None where none is learned.
        augmenter: makes learned copies, None where there are none; it travels with the cells, as workers read no file.
        places: where cells on disk are, from which neighbours are found among those in memory; None where copies need
            none.
    """

    values_ng: Values
    train_idx: np.ndarray
    val_idx: np.ndarray
    neighbours: np.ndarray | None
    preparation: Preparation
    augmenter: FrozenAugmenter | None = None
    guess: np.ndarray | None = None
    places: Places | None = None


def take_rows(values_ng: Values, idx_n: np.ndarray) -> Values:
    """Rows as they are kept, dense or CSR; lazy ones are made."""
    if isinstance(values_ng, LazyRows):
        return values_ng.rows(idx_n)
    rows = values_ng.rows(idx_n) if isinstance(values_ng, ReadRows) else values_ng[idx_n]
    return rows if sp.issparse(rows) else np.ascontiguousarray(rows)


def dense_rows(values_ng: Values, idx_n: np.ndarray) -> np.ndarray:
    """Rows as a dense float32 array."""
    rows = take_rows(values_ng, idx_n)
    return rows.toarray() if sp.issparse(rows) else rows


def copies_for(config: Config, preparation: Preparation, values_ng: Values = None) -> tuple[str, ...]:
    """The kinds of copies with 'auto' resolved for this kind of data.

    Neighbours of lazy rows are not sought: each image would have to be made and compared with the others. Of
    rows on disk, neighbours are those among the cells that are in memory together.

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
