"""Choosing the preparation that suits the data and the likelihood."""

from dataclasses import dataclass, replace

import numpy as np

from cplmix_ray.config import Input
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.preprocessing.genes import highly_variable, listed_genes, read_gene_list
from cplmix_ray.data.preprocessing.preparation import Preparation, prepare, require_counts
from cplmix_ray.data.source import Source
from cplmix_ray.distributions.likelihood import LIKELIHOODS, likelihoods_for
from cplmix_ray.utils.errors import InputError

_LARGEST_LOGARITHM = 50.0


@dataclass(frozen=True)
class Fitted:
    """A preparation and what it gives.

    Attributes:
        matrix: prepared values of the chosen genes.
        log_matrix: log-expression (or pixels) of all genes, on which cells are near each other: the genes that a
            selection leaves out still tell which cells are alike.
        notes: what the user should know.
    """

    preparation: Preparation
    matrix: Matrix
    log_matrix: Matrix
    notes: tuple[str, ...] = ()


def fit_preparation(source: Source, settings: Input, likelihood: str = "auto") -> Fitted:
    """Decide how the values become model inputs.

    Args:
        likelihood: as in the setting of that name; 'auto' fits any data.

    Raises:
        InputError: the values do not fit the likelihood or the normalisation.
    """
    if source.image_shape is not None:
        return _images(source, settings, likelihood)
    _require_likelihood_for(likelihood, ("log", "counts"), "cells")
    counts = source.matrix.statistics.counts
    if likelihood != "auto" and LIKELIHOODS[likelihood].counts:
        fitted = _counts(source, settings, likelihood)
    elif settings.normalise == "log1p" or (settings.normalise == "auto" and (counts or _no_logarithms(source.matrix))):
        fitted = _normalised(source, settings, counts)
    else:
        fitted = _as_they_are(source, counts)
    if settings.hvg is None and settings.genes is None:
        return fitted
    return _select(fitted, source, counts, settings)


def _require_likelihood_for(name: str, kinds: tuple[str, ...], what: str) -> None:
    if name != "auto" and not set(LIKELIHOODS[name].kinds) & set(kinds):
        own, (*others, last) = " and ".join(LIKELIHOODS[name].kinds), likelihoods_for(kinds)
        raise InputError(f"--likelihood {name} is for {own}; {what} take {', '.join(others)} or {last}.")


def _images(source: Source, settings: Input, likelihood: str) -> Fitted:
    if settings.hvg is not None or settings.genes is not None:
        option = "--genes" if settings.hvg is None else "--hvg"
        raise InputError(f"{option} chooses genes and means nothing for images; leave it out.")
    _require_likelihood_for(likelihood, ("images",), "images")
    lowest, highest = source.matrix.statistics.limits
    if lowest < 0 or highest <= 0:
        raise InputError(f"The pixels of {source.name} range from {lowest:g} to {highest:g}; they must start at 0.")
    names = tuple(source.adata.var_names)
    preparation = Preparation("images", names, scale=highest, image_shape=source.image_shape)
    matrix = prepare(source.matrix, preparation)
    return Fitted(preparation, matrix, matrix, () if matrix.note is None else (matrix.note,))


def _counts(source: Source, settings: Input, likelihood: str) -> Fitted:
    require_counts(source.matrix, source, likelihood)
    if settings.normalise == "log1p":
        raise InputError(f"--likelihood {likelihood} takes raw counts; leave out --normalise log1p.")
    names, library = tuple(source.adata.var_names), source.matrix.statistics.library
    preparation = Preparation("counts", names, library=library)
    logged = prepare(source.matrix, Preparation("log", names, target_sum=settings.target_sum))
    return Fitted(preparation, prepare(source.matrix, preparation), logged)


def _normalised(source: Source, settings: Input, counts: bool) -> Fitted:
    smallest, largest = source.matrix.statistics.limits
    if smallest < 0:
        raise InputError(f"{source.name} holds negative values, so it cannot be normalised; use --normalise none.")
    preparation = Preparation("log", tuple(source.adata.var_names), target_sum=settings.target_sum)
    what = "raw counts" if counts else f"values up to {largest:g}, which are no logarithms"
    note = f"{source.name} holds {what}: cells are scaled to {preparation.target_sum:g} and log1p is taken."
    if settings.normalise == "log1p":
        note = (
            "" if counts else "--normalise log1p is applied to values that are no counts: are they normalised already?"
        )
    prepared = prepare(source.matrix, preparation)
    return Fitted(preparation, prepared, prepared, (note,) if note else ())


def _no_logarithms(matrix: Matrix) -> bool:
    """Whether expression was read that is not logarithmic: e^50 molecules or more are in no cell."""
    smallest, largest = matrix.statistics.limits
    return smallest >= 0 and largest > _LARGEST_LOGARITHM


def _as_they_are(source: Source, counts: bool) -> Fitted:
    preparation = Preparation("log", tuple(source.adata.var_names))
    prepared, largest = prepare(source.matrix, preparation), source.matrix.statistics.limits[1]
    notes: tuple[str, ...] = ()
    if counts:
        notes = ("The values look like raw counts and are taken as they are; --normalise log1p is usual.",)
    elif largest > _LARGEST_LOGARITHM:
        notes = (f"The largest value is {largest:g}: if these are no logarithms, use --normalise log1p.",)
    return Fitted(preparation, prepared, prepared, notes)


def _select(fitted: Fitted, source: Source, counts: bool, settings: Input) -> Fitted:
    """The genes of the list, and the most variable among them."""
    keep, notes = np.arange(len(source.adata.var_names)), fitted.notes
    if settings.genes is not None:
        keep, said = listed_genes(source.adata.var_names, read_gene_list(settings.genes), settings.genes)
        notes = (*notes, *said)
    if settings.hvg is not None:
        matrix, n = source.matrix if counts else fitted.log_matrix, source.n_cells
        drawn_n = matrix.draw_sample(n, 0)  # the same genes for runs that differ in their seed alone
        if len(drawn_n) < n:
            notes = (*notes, f"Genes are ranked on {len(drawn_n):,} of the {n:,} cells.")
            matrix = matrix.take(drawn_n)
        ranked = matrix.block()
        ranked = ranked if len(keep) == ranked.shape[1] else ranked[:, keep]
        keep = keep[highly_variable(ranked, settings.hvg, counts)]
    names = tuple(source.adata.var_names[keep])
    return replace(
        fitted,
        preparation=replace(fitted.preparation, var_names=names),
        matrix=fitted.matrix.choose(keep),
        notes=notes,
    )
