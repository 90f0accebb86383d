"""Which cells train and which validate."""

import numpy as np

from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.source import Source


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
    on_disk = isinstance(source.values_ng, RowsOnDisk)
    most = source.values_ng.sample_cells if on_disk else None
    return split_cells(source.n_cells, val_fraction, seed, source.held_out_n, most)
