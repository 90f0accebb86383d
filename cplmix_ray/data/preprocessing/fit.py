"""Choosing the preparation that suits the data and the likelihood."""

from dataclasses import dataclass, replace

from cplmix_ray.config import Input
from cplmix_ray.config.data import LARGEST_LIBRARY
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.preprocessing.gene_selection import select_genes
from cplmix_ray.data.preprocessing.preparation import Preparation, prepare, require_counts
from cplmix_ray.data.preprocessing.value_kinds import CENTRED, LINEAR, Values, hint_of_others, recognise_values
from cplmix_ray.data.source import Source
from cplmix_ray.distributions.likelihood import LIKELIHOODS, likelihoods_for
from cplmix_ray.utils.errors import InputError


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
    values = recognise_values(source.matrix.statistics)
    if likelihood != "auto" and LIKELIHOODS[likelihood].counts:
        fitted = _counts(source, settings, likelihood, values)
    elif settings.normalise == "log1p" or (settings.normalise == "auto" and values.kind in LINEAR):
        fitted = _normalised(source, settings, values)
    else:
        fitted = _as_they_are(source, values)
    keep, notes = select_genes(source, settings, values, fitted.log_matrix)
    if keep is None:
        return replace(fitted, notes=(*fitted.notes, *notes))
    names = tuple(source.var_names[keep])
    return replace(
        fitted,
        preparation=replace(fitted.preparation, var_names=names),
        matrix=fitted.matrix.choose(keep),
        notes=(*fitted.notes, *notes),
    )


def _require_likelihood_for(name: str, kinds: tuple[str, ...], what: str) -> None:
    if name != "auto" and not set(LIKELIHOODS[name].kinds) & set(kinds):
        own, (*others, last) = " and ".join(LIKELIHOODS[name].kinds), likelihoods_for(kinds)
        raise InputError(f"--likelihood {name} is for {own}; {what} take {', '.join(others)} or {last}.")


def _images(source: Source, settings: Input, likelihood: str) -> Fitted:
    if isinstance(settings.hvg, int) or settings.genes is not None:
        option = "--hvg" if settings.genes is None else "--genes"
        raise InputError(f"{option} chooses genes and means nothing for images; leave it out.")
    _require_likelihood_for(likelihood, ("images",), "images")
    lowest, highest = source.matrix.statistics.limits
    if lowest < 0 or highest <= 0:
        raise InputError(f"The pixels of {source.name} range from {lowest:g} to {highest:g}; they must start at 0.")
    names = tuple(source.var_names)
    preparation = Preparation("images", names, scale=highest, image_shape=source.image_shape)
    matrix = prepare(source.matrix, preparation)
    return Fitted(preparation, matrix, matrix, () if matrix.note is None else (matrix.note,))


def _counts(source: Source, settings: Input, likelihood: str, values: Values) -> Fitted:
    require_counts(source.matrix, source, likelihood)
    if settings.normalise == "log1p":
        raise InputError(f"--likelihood {likelihood} takes raw counts; leave out --normalise log1p.")
    names, library = tuple(source.var_names), source.matrix.statistics.library
    preparation = Preparation("counts", names, library=library, values=values.kind)
    logged = prepare(source.matrix, Preparation("log", names, target_sum=_target_sum(source, settings)))
    note = f"{source.name} holds {values}, which the likelihood {likelihood} takes as they are."
    return Fitted(preparation, prepare(source.matrix, preparation), logged, (note,))


def _normalised(source: Source, settings: Input, values: Values) -> Fitted:
    if source.matrix.statistics.limits[0] < 0:
        hint = hint_of_others(source, LINEAR)
        remedy = f"{hint}, or use --normalise none" if hint else "use --normalise none"
        raise InputError(f"{source.name} holds negative values, so it cannot be normalised; {remedy}.")
    if settings.target_sum == "median" and values.kind == "proportions":
        raise InputError(
            f"{source.name} holds proportions, whose total is 1 in every cell, so that their median is no library "
            f"size; give a number instead of --target-sum median, such as 10000."
        )
    target = _target_sum(source, settings)
    preparation = Preparation("log", tuple(source.var_names), target_sum=target, values=values.kind)
    which = ", the median of their totals," if settings.target_sum == "median" else ""
    note = f"{source.name} holds {values}: cells are scaled to {target:g}{which} and log1p is taken."
    if values.kind not in LINEAR:
        note = f"{source.name} seems to hold {values}, and --normalise log1p is applied to it: leave it out if it does."
        note += f" Cells are scaled to {target:g}{which[:-1]}." if which else ""
    prepared = prepare(source.matrix, preparation)
    return Fitted(preparation, prepared, prepared, (note,))


def _target_sum(source: Source, settings: Input) -> float:
    """Library size to which cells are scaled, with 'median' replaced by the number that it means for these cells."""
    if settings.target_sum != "median":
        return settings.target_sum
    library = source.matrix.statistics.library
    if library > LARGEST_LIBRARY:
        raise InputError(
            f"The median of the totals of the cells of {source.name} is {library:g}, and cells can be scaled to at "
            f"most {LARGEST_LIBRARY:g}; give a number with --target-sum."
        )
    return library


def _as_they_are(source: Source, values: Values) -> Fitted:
    preparation = Preparation("log", tuple(source.var_names), values=values.kind, log_base=values.base)
    prepared = prepare(source.matrix, preparation)
    if values.kind == "counts":
        note = "The values look like raw counts and are taken as they are; --normalise log1p is usual."
    elif values.kind in LINEAR:
        note = f"{source.name} holds {values} and is taken as it is; --normalise log1p is usual."
    elif values.kind in CENTRED:
        note = f"{source.name} holds {values}: they are taken as they are, and other cells must be scaled with them."
        hint = hint_of_others(source, ("log_expression", *LINEAR))
        note = f"{note} Its {hint}." if hint else note
    elif values.evident:
        note = f"{source.name} holds {values}: it is taken as it is."
    else:
        doubt = " If it is no logarithm, use --normalise log1p." if source.matrix.statistics.limits[0] >= 0 else ""
        note = f"{source.name} seems to hold {values}: it is taken as it is.{doubt}"
    return Fitted(preparation, prepared, prepared, (note,))
