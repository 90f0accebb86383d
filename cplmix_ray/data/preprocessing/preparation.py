"""From what a file holds to what the likelihood is evaluated on; remembered, so that new cells are treated alike."""

import functools
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.covariates import Covariate
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.preprocessing.value_kinds import KINDS, ValueKind, hint_of_others
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError

Kind = Literal["images", "counts", "log"]


@dataclass(frozen=True)
class Preparation:
    """How values became model inputs.

    Attributes:
        kind: pixels in [0, 1], raw counts, or log-expression.
        var_names: the genes (or pixels) used, in order.
        target_sum: library size to which cells are scaled before log1p; None where they are not.
        scale: pixels are divided by this.
        library: median library size of the training cells (counts only), the unit of the encoder's input.
        image_shape: (height, width) of images.
        values, log_base: what the values were taken for (see ``value_kinds.Values``); None for images, and in models of
            versions that did not record it.
        covariates: columns of obs that the decoder receives, the batch first.
    """

    kind: Kind
    var_names: tuple[str, ...]
    target_sum: float | None = None
    scale: float = 1.0
    library: float = 1.0
    image_shape: tuple[int, int] | None = None
    values: ValueKind | None = field(default=None, compare=False)
    log_base: float | None = field(default=None, compare=False)
    covariates: tuple[Covariate, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, tree: Any) -> "Preparation":
        """The inverse.

        Raises:
            ValueError: it is none, or none that could have been made.
        """
        try:
            shape = tree["image_shape"]
            covariates = tuple(Covariate.from_dict(each) for each in tree.get("covariates", ()))
            made = cls(
                **{
                    **tree,
                    "var_names": tuple(tree["var_names"]),
                    "image_shape": shape and tuple(shape),
                    "covariates": covariates,
                }
            )
            numbers = [made.scale, made.library, *(n for n in (made.target_sum, made.log_base) if n is not None)]
            sound = (
                made.kind in get_args(Kind)
                and made.values in (None, *KINDS)
                and isinstance(tree["var_names"], list | tuple)
                and all(isinstance(name, str) for name in made.var_names)
                and len(set(made.var_names)) == len(made.var_names) > 0
                and all(not isinstance(n, bool) and 0 < n < np.inf for n in numbers)
                and (made.kind == "images") == (made.image_shape is not None)
                and (made.image_shape is None or prod(made.image_shape) == len(made.var_names))
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"its preparation is none: {' '.join(str(error).split())[:100]}") from None
        if not sound:
            raise ValueError("its preparation is none that could have been made")
        return made


_LARGEST = 1e12
"""No measurement of a cell is larger, and float32 holds its square, summed over all genes and cells."""


def check_finite(matrix: Matrix, source: Source) -> None:
    """Refuse NaN and infinity, naming the first cell and gene, and values that no computation can use."""
    n_bad, first = matrix.statistics.n_bad, matrix.statistics.first_bad
    if first is None:
        smallest, largest = matrix.statistics.limits
        if max(-smallest, largest) > _LARGEST:
            extreme = largest if largest > _LARGEST else smallest
            raise InputError(f"{source.name} holds values as large as {extreme:g}, which are no measurements of cells.")
        return
    cell, gene = source.adata.obs_names[first[0]], source.var_names[first[1]]
    raise InputError(
        f"{source.name} holds {n_bad} values that are NaN or infinite (first: cell '{cell}', gene '{gene}'); "
        f"remove or impute them."
    )


def require_counts(matrix: Matrix, source: Source, likelihood: str) -> None:
    """Refuse negative or fractional values where a count likelihood was asked for."""
    if matrix.statistics.counts:
        return
    smallest, _ = matrix.statistics.limits
    what = f"negative values (smallest {smallest:g})" if smallest < 0 else "values that are not whole numbers"
    remedy = hint_of_others(source, ("counts",)) or "name the raw counts with --layer"
    raise InputError(
        f"{source.name} holds {what}, which the {likelihood} likelihood for counts cannot take; {remedy}, or use "
        f"--likelihood gaussian."
    )


def prepare(matrix: Matrix, preparation: Preparation) -> Matrix:
    """Apply a preparation to a matrix whose columns already are its genes.

    Raises:
        InputError: pixels are made on demand, and the model was trained on other units.
    """
    if matrix.on_demand and preparation.scale != 1.0:
        raise InputError(f"The model was trained on pixels up to {preparation.scale:g}, and these go up to 1.")
    return matrix.prepared(functools.partial(prepare_block, preparation=preparation))


def prepare_block(values_ng: Block, preparation: Preparation) -> Block:
    """Apply a preparation to rows in memory; float32 comes out, sparse stays sparse."""
    if preparation.kind == "images":
        return (np.asarray(values_ng, dtype=np.float32) / np.float32(preparation.scale)).clip(0, 1)
    values = values_ng.astype(np.float32)
    if preparation.target_sum is None:
        return values
    library_n = np.asarray(values.sum(axis=1), dtype=np.float64).ravel()
    # A cell without any counts stays as empty as it is, and so does one of so little that float32 cannot scale it.
    seen_n = library_n > preparation.target_sum / np.finfo(np.float32).max
    factor_n = (preparation.target_sum / np.where(seen_n, library_n, preparation.target_sum)).astype(np.float32)
    if sp.issparse(values):
        # In place, as this is a copy: half the time of multiply(), and the peak of memory is what comes out.
        values.sum_duplicates()
        values.data *= np.repeat(factor_n, np.diff(values.indptr))
        np.log1p(values.data, out=values.data)
        return values
    return np.log1p(values * factor_n[:, None])
