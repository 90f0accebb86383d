"""The cells of a benchmark: the same for all methods."""

import functools
from dataclasses import replace

import numpy as np

from cplmix_ray.benchmarks.jobs import Job
from cplmix_ray.data.dataset import read_source
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError


def cells_of(job: Job) -> Source:
    """The cells that the job's entry keeps.

    Raises:
        InputError: the data cannot be read, or its types are not known and the entry needs them.
    """
    given = job.config.input
    return _cells(given.data, given.layer, given.labels_key, job.entry.min_cells_per_type)


@functools.lru_cache(maxsize=1)
def _cells(data: str, layer: str | None, labels_key: str | None, least: int) -> Source:
    """Read and filtered once for all runs that follow each other on the same cells."""
    return common_types(read_source(data, layer, labels_key), least)


def common_types(source: Source, least: int) -> Source:
    """The cells without those of types that have fewer than ``least`` of them; cells of unknown type stay.

    Raises:
        InputError: no type is known, or no cell stays.
    """
    if least <= 1:
        return source
    labels_n, held_out_n = known_labels(source, f"min_cells_per_type {least}"), source.held_out_n
    types, sizes = np.unique(labels_n[labels_n != ""], return_counts=True)
    keep_n = ~np.isin(labels_n, types[sizes < least])
    if not keep_n.any():
        raise InputError(f"No type in {source.name} has {least} cells; lower min_cells_per_type.")
    return replace(
        source,
        adata=source.adata[keep_n],
        values_ng=source.values_ng[keep_n],
        labels_n=labels_n[keep_n],
        truth_nm=None if source.truth_nm is None else source.truth_nm[keep_n],
        held_out_n=None if held_out_n is None else held_out_n[keep_n],
    )


def known_labels(source: Source, why: str) -> np.ndarray:
    """The labels, of which some are known.

    Raises:
        InputError: none is.
    """
    if source.labels_n is None or not (source.labels_n != "").any():
        raise InputError(f"{source.name} has no known types, which {why} needs; name them with labels_key.")
    return source.labels_n


def number_of_types(labels_n: np.ndarray) -> int:
    """Known types among the labels."""
    return len(np.unique(labels_n[labels_n != ""]))
