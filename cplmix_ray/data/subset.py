"""Some of the cells, for a first look or a small machine."""

from dataclasses import replace

import numpy as np

from cplmix_ray.data.matrix.lazy import LazyRows
from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.source import Factors, Source
from cplmix_ray.utils.errors import InputError


def draw_cells(n_cells: int, n: int, seed: int, name: str) -> np.ndarray:
    """``n`` of the cells, drawn at random, in order.

    Raises:
        InputError: there are fewer.
    """
    if n > n_cells:
        raise InputError(f"{name} has {n_cells} cells, fewer than --subset {n}; leave out --subset.")
    return np.sort(np.random.default_rng([seed, 0x5B5E7]).permutation(n_cells)[:n])


def draw_subset(source: Source, n: int, seed: int) -> Source:
    """The source with ``n`` of its cells alone.

    Raises:
        InputError: there are fewer.
    """
    idx_n = draw_cells(source.n_cells, n, seed, source.name)
    values, held_out_n, factors = source.values_ng, source.held_out_n, source.factors
    if held_out_n is not None:
        held_out_n = held_out_n[idx_n]
        # As in a file: a test set alone is no test set.
        held_out_n = held_out_n if held_out_n.any() and not held_out_n.all() else None
    return replace(
        source,
        adata=source.adata[idx_n].copy(),
        values_ng=values.take(idx_n) if isinstance(values, LazyRows | RowsOnDisk) else values[idx_n],
        labels_n=None if source.labels_n is None else source.labels_n[idx_n],
        held_out_n=held_out_n,
        truth_nm=None if source.truth_nm is None else source.truth_nm[idx_n],
        factors=None if factors is None else Factors(factors.names, factors.classes_nf[idx_n]),
    )
