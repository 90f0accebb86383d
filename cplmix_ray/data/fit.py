"""Choosing the preparation that suits the data and the likelihood."""

from dataclasses import dataclass, replace

import numpy as np

from cplmix_ray.config import Config
from cplmix_ray.data.genes import highly_variable
from cplmix_ray.data.lazy import NO_PIXELS, LazyRows, limits
from cplmix_ray.data.preparation import Preparation, holds_counts, prepare, require_counts
from cplmix_ray.data.source import Source, Values
from cplmix_ray.errors import InputError


@dataclass(frozen=True)
class Fitted:
    """A preparation and what it gives.

    Attributes:
        values_ng: prepared values of the chosen genes.
        log_values_ng: log-expression (or pixels) of all genes, on which cells are near each other: the genes that a
            selection leaves out still tell which cells are alike.
        notes: what the user should know.
    """

    preparation: Preparation
    values_ng: Values
    log_values_ng: Values
    notes: tuple[str, ...] = ()


def fit_preparation(source: Source, config: Config) -> Fitted:
    """Decide how the values become model inputs.

    Raises:
        InputError: the values do not fit the likelihood or the normalisation.
    """
    if source.image_shape is not None:
        return _images(source, config)
    if config.model.likelihood == "bernoulli":
        raise InputError("--likelihood bernoulli is for images; cells take gaussian, nb or zinb.")
    counts = holds_counts(source.values_ng)
    if config.model.likelihood in ("nb", "zinb"):
        fitted = _counts(source, config)
    elif config.input.normalise == "log1p" or (config.input.normalise == "auto" and counts):
        fitted = _normalised(source, config, counts)
    else:
        fitted = _as_they_are(source, counts)
    return fitted if config.input.hvg is None else _select(fitted, source, counts, config.input.hvg)


def _images(source: Source, config: Config) -> Fitted:
    if config.input.hvg is not None:
        raise InputError("--hvg chooses genes and means nothing for images; leave it out.")
    if config.model.likelihood in ("nb", "zinb"):
        raise InputError(f"--likelihood {config.model.likelihood} is for counts; images take bernoulli or gaussian.")
    lowest, highest = limits(source.values_ng)
    if lowest < 0 or highest <= 0:
        raise InputError(f"The pixels of {source.name} range from {lowest:g} to {highest:g}; they must start at 0.")
    names = tuple(source.adata.var_names)
    preparation = Preparation("images", names, scale=highest, image_shape=source.image_shape)
    values = prepare(source.values_ng, preparation)
    return Fitted(preparation, values, values, (NO_PIXELS,) if isinstance(values, LazyRows) else ())


def _counts(source: Source, config: Config) -> Fitted:
    require_counts(source.values_ng, source, config.model.likelihood)
    if config.input.normalise == "log1p":
        raise InputError(f"--likelihood {config.model.likelihood} takes raw counts; leave out --normalise log1p.")
    names, library = tuple(source.adata.var_names), usual_library(source.values_ng)
    preparation = Preparation("counts", names, library=library)
    logged = prepare(source.values_ng, Preparation("log", names, target_sum=config.input.target_sum))
    return Fitted(preparation, prepare(source.values_ng, preparation), logged)


def _normalised(source: Source, config: Config, counts: bool) -> Fitted:
    values = source.values_ng
    if values.min() < 0:
        raise InputError(f"{source.name} holds negative values, so it cannot be normalised; use --normalise none.")
    preparation = Preparation("log", tuple(source.adata.var_names), target_sum=config.input.target_sum)
    note = f"{source.name} holds raw counts: cells are scaled to {preparation.target_sum:g} and log1p is taken."
    if config.input.normalise == "log1p":
        note = (
            "" if counts else "--normalise log1p is applied to values that are no counts: are they normalised already?"
        )
    prepared = prepare(values, preparation)
    return Fitted(preparation, prepared, prepared, (note,) if note else ())


def _as_they_are(source: Source, counts: bool) -> Fitted:
    preparation = Preparation("log", tuple(source.adata.var_names))
    prepared, largest = prepare(source.values_ng, preparation), float(source.values_ng.max())
    notes: tuple[str, ...] = ()
    if counts:
        notes = ("The values look like raw counts and are taken as they are; --normalise log1p is usual.",)
    elif largest > 50:
        notes = (f"The largest value is {largest:g}: if these are no logarithms, use --normalise log1p.",)
    return Fitted(preparation, prepared, prepared, notes)


def _select(fitted: Fitted, source: Source, counts: bool, n_genes: int) -> Fitted:
    if counts:
        keep = highly_variable(source.values_ng, n_genes, counts=True)
    else:
        keep = highly_variable(fitted.log_values_ng, n_genes, counts=False)
    names = tuple(source.adata.var_names[keep])
    return replace(
        fitted, preparation=replace(fitted.preparation, var_names=names), values_ng=fitted.values_ng[:, keep]
    )


def usual_library(values_ng: Values) -> float:
    """Median library size of the cells that have any counts; 1 where none has."""
    library_n = np.asarray(values_ng.sum(axis=1), dtype=np.float64).ravel()
    return float(np.median(library_n[library_n > 0])) if (library_n > 0).any() else 1.0
