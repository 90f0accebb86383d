"""What was read from a file, before any preparation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cplmix_ray.data.matrix.base import Matrix

if TYPE_CHECKING:  # workers know this file and need no reader
    import anndata
    import pandas as pd


@dataclass(frozen=True)
class Factors:
    """The factors from which each image was made, known exactly.

    Attributes:
        names: one for each factor.
        classes_nf: which of its values each factor has, counted from 0, shape (n, f).
    """

    names: tuple[str, ...]
    classes_nf: np.ndarray


@dataclass(frozen=True)
class Source:
    """Cells (or images) as they were read.

    Attributes:
        adata: the user's whole object, never altered.
        matrix: X or the chosen layer in its own dtype, or pixels; in memory, on disk or made on demand.
        name: what to call it in messages.
        image_shape: (height, width) of images, None for cells.
        labels_n: known types as strings, "" where unknown; None without labels.
        held_out_n: True for cells that the file itself sets apart (a test set), None where it does not.
        truth_nm: known continuous states, NaN where unknown; None without them.
        notes: what the user should know of the reading.
        factors: what the images were made from, None where that is not known.
        raw_var: annotations of the matrix's genes where these are not those of ``adata``: ``adata.raw.var``.
        others: what ``--layer`` takes -> reads rows at even distances of that matrix, of those that were not chosen.
    """

    adata: "anndata.AnnData"
    matrix: Matrix
    name: str
    image_shape: tuple[int, int] | None = None
    labels_n: np.ndarray | None = None
    held_out_n: np.ndarray | None = None
    truth_nm: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    factors: Factors | None = None
    raw_var: "pd.DataFrame | None" = None
    others: Mapping[str, Callable[[], Matrix]] = field(default_factory=dict)

    @property
    def var(self) -> "pd.DataFrame":
        """Annotations of the matrix's genes."""
        return self.adata.var if self.raw_var is None else self.raw_var

    @property
    def var_names(self) -> "pd.Index":
        """Names of the matrix's genes."""
        return self.var.index

    @property
    def n_cells(self) -> int:
        return self.adata.n_obs
