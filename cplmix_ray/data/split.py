"""Which cells train and which validate."""

import numpy as np


def split_cells(n: int, val_fraction: float, seed: int, held_out_n: np.ndarray | None = None) -> tuple:
    """Sorted indices (train, validation): the file's own test set where it has one, else a random share.

    At least one cell trains; with ``val_fraction`` 0 all cells do, a test set's too, and none validates.
    """
    if held_out_n is not None and val_fraction > 0:
        return np.flatnonzero(~held_out_n), np.flatnonzero(held_out_n)
    order = np.random.default_rng([seed, 0x5B117]).permutation(n)
    n_val = min(n - 1, round(n * val_fraction))
    return np.sort(order[n_val:]), np.sort(order[:n_val])
