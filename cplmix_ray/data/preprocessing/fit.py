"""Choosing the preparation that suits the data and the likelihood."""

from dataclasses import dataclass, replace

import numpy as np

from cplmix_ray.config import Config
from cplmix_ray.data.io.gene_list import read_gene_list
from cplmix_ray.data.matrix.lazy import NO_PIXELS, LazyRows, limits
from cplmix_ray.data.matrix.on_disk import RowsOnDisk, choose_genes
from cplmix_ray.data.preprocessing.genes import highly_variable, listed_genes
from cplmix_ray.data.preprocessing.preparation import Preparation, holds_counts, prepare, require_counts
from cplmix_ray.data.source import Source, Values
from cplmix_ray.utils.errors import InputError

_LARGEST_LOGARITHM = 50.0


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
    if config.model.encoder_view == "content":
        raise InputError("--encoder-view content is for images; cells have no place and no size in what is measured.")
    if config.model.likelihood == "bernoulli":
        raise InputError("--likelihood bernoulli is for images; cells take gaussian, nb or zinb.")
    counts = holds_counts(source.values_ng)
    if config.model.likelihood in ("nb", "zinb"):
        fitted = _counts(source, config)
    elif config.input.normalise == "log1p" or (
        config.input.normalise == "auto" and (counts or _no_logarithms(source.values_ng))
    ):
        fitted = _normalised(source, config, counts)
    else:
        fitted = _as_they_are(source, counts)
    if config.input.hvg is None and config.input.genes is None:
        return fitted
    return _select(fitted, source, counts, config)


def _images(source: Source, config: Config) -> Fitted:
    if config.input.hvg is not None or config.input.genes is not None:
        option = "--genes" if config.input.hvg is None else "--hvg"
        raise InputError(f"{option} chooses genes and means nothing for images; leave it out.")
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
    values, (smallest, largest) = source.values_ng, limits(source.values_ng)
    if smallest < 0:
        raise InputError(f"{source.name} holds negative values, so it cannot be normalised; use --normalise none.")
    preparation = Preparation("log", tuple(source.adata.var_names), target_sum=config.input.target_sum)
    what = "raw counts" if counts else f"values up to {largest:g}, which are no logarithms"
    note = f"{source.name} holds {what}: cells are scaled to {preparation.target_sum:g} and log1p is taken."
    if config.input.normalise == "log1p":
        note = (
            "" if counts else "--normalise log1p is applied to values that are no counts: are they normalised already?"
        )
    prepared = prepare(values, preparation)
    return Fitted(preparation, prepared, prepared, (note,) if note else ())


def _no_logarithms(values_ng: Values) -> bool:
    """Whether expression was read that is not logarithmic: e^50 molecules or more are in no cell."""
    smallest, largest = limits(values_ng)
    return smallest >= 0 and largest > _LARGEST_LOGARITHM


def _as_they_are(source: Source, counts: bool) -> Fitted:
    preparation = Preparation("log", tuple(source.adata.var_names))
    prepared, largest = prepare(source.values_ng, preparation), limits(source.values_ng)[1]
    notes: tuple[str, ...] = ()
    if counts:
        notes = ("The values look like raw counts and are taken as they are; --normalise log1p is usual.",)
    elif largest > _LARGEST_LOGARITHM:
        notes = (f"The largest value is {largest:g}: if these are no logarithms, use --normalise log1p.",)
    return Fitted(preparation, prepared, prepared, notes)


def _select(fitted: Fitted, source: Source, counts: bool, config: Config) -> Fitted:
    """The genes of the list, and the most variable among them."""
    keep, notes = np.arange(len(source.adata.var_names)), fitted.notes
    if config.input.genes is not None:
        keep, said = listed_genes(source.adata.var_names, read_gene_list(config.input.genes), config.input.genes)
        notes = (*notes, *said)
    if config.input.hvg is not None:
        ranked = source.values_ng if counts else fitted.log_values_ng
        if isinstance(ranked, RowsOnDisk):
            n = source.n_cells
            drawn_n = ranked.drawn(n, 0)  # as in memory, the genes of runs that differ in their seed alone are the same
            if len(drawn_n) < n:
                notes = (*notes, f"Genes are ranked on {len(drawn_n):,} of the {n:,} cells.")
            ranked = ranked.rows(drawn_n)
        ranked = ranked if len(keep) == ranked.shape[1] else ranked[:, keep]
        keep = keep[highly_variable(ranked, config.input.hvg, counts)]
    names = tuple(source.adata.var_names[keep])
    return replace(
        fitted,
        preparation=replace(fitted.preparation, var_names=names),
        values_ng=choose_genes(fitted.values_ng, keep),
        notes=notes,
    )


def usual_library(values_ng: Values) -> float:
    """Median library size of the cells that have any counts; 1 where none has."""
    if isinstance(values_ng, RowsOnDisk):
        return values_ng.known.library
    library_n = np.asarray(values_ng.sum(axis=1), dtype=np.float64).ravel()
    return float(np.median(library_n[library_n > 0])) if (library_n > 0).any() else 1.0
