"""Random choices of cells: a subset to work on, and the split into training and validation."""

from dataclasses import replace

import numpy as np

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
    return take_cells(source, draw_cells(source.n_cells, n, seed, source.name))


def take_cells(source: Source, idx_n: np.ndarray) -> Source:
    """The source with the cells ``idx_n`` alone."""
    held_out_n, factors = source.held_out_n, source.factors
    if held_out_n is not None:
        held_out_n = held_out_n[idx_n]
        # As in a file: a test set alone is no test set.
        held_out_n = held_out_n if held_out_n.any() and not held_out_n.all() else None
    return replace(
        source,
        adata=source.adata[idx_n].copy(),
        matrix=source.matrix.take(idx_n),
        labels_n=None if source.labels_n is None else source.labels_n[idx_n],
        held_out_n=held_out_n,
        truth_nm=None if source.truth_nm is None else source.truth_nm[idx_n],
        factors=None if factors is None else Factors(factors.names, factors.classes_nf[idx_n]),
    )


def split_cells(
    n: int, val_fraction: float, seed: int, held_out_n: np.ndarray | None = None, most: int | None = None
) -> tuple:
    """Sorted indices (train, validation): the file's own test set where it has one, else a random share.

    At least one cell trains; with ``val_fraction`` 0 all cells do, a test set's too, and none validates.
    """
    if held_out_n is not None and val_fraction > 0:
        return np.flatnonzero(~held_out_n), np.flatnonzero(held_out_n)
    order = np.random.default_rng([seed, 0x5B117]).permutation(n)
    n_val = min(n - 1, round(n * val_fraction), n if most is None else most)
    return np.sort(order[n_val:]), np.sort(order[:n_val])


def split_source(source: Source, val_fraction: float, seed: int) -> tuple:
    """The split of what was read; of cells on disk no more validate than can be in memory beside those that train."""
    return split_cells(source.n_cells, val_fraction, seed, source.held_out_n, source.matrix.sample_cells)
