"""Some of the cells, for a first look or a small machine."""

from dataclasses import replace

import numpy as np

from cplmix_ray.data.lazy import LazyRows
from cplmix_ray.data.source import Factors, Source
from cplmix_ray.errors import InputError


def draw_subset(source: Source, n: int, seed: int) -> Source:
    """``n`` cells drawn at random, in their old order.

    Raises:
        InputError: there are fewer.
    """
    if n > source.n_cells:
        raise InputError(f"{source.name} has {source.n_cells} cells, fewer than --subset {n}; leave out --subset.")
    idx_n = np.sort(np.random.default_rng([seed, 0x5B5E7]).permutation(source.n_cells)[:n])
    values, held_out_n, factors = source.values_ng, source.held_out_n, source.factors
    if held_out_n is not None:
        held_out_n = held_out_n[idx_n]
        # As in a file: a test set alone is no test set.
        held_out_n = held_out_n if held_out_n.any() and not held_out_n.all() else None
    return replace(
        source,
        adata=source.adata[idx_n].copy(),
        values_ng=values.take(idx_n) if isinstance(values, LazyRows) else values[idx_n],
        labels_n=None if source.labels_n is None else source.labels_n[idx_n],
        held_out_n=held_out_n,
        factors=None if factors is None else Factors(factors.names, factors.classes_nf[idx_n]),
    )
