"""Which cells on disk are alike: a sample is compared in memory, and the other cells go by the sample."""

from dataclasses import replace

import numpy as np
from sklearn.decomposition import PCA
from usearch.index import Index

from cplmix_ray.config import Config
from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.neighbors.index import Places
from cplmix_ray.data.neighbors.initial_clustering import ensemble_of
from cplmix_ray.data.neighbors.principal_components import fit_components, principal_components, require_differences
from cplmix_ray.data.preprocessing.fit import Fitted
from cplmix_ray.data.source import Source

_BLOCK = 8192
"""Cells whose components are found at once."""


def places_and_guess(
    fitted: Fitted, source: Source, train_idx: np.ndarray, config: Config, neighbours_wanted: bool
) -> tuple[Places | None, np.ndarray | None]:
    """Places from which neighbours are found later, and a first guess of every training cell's category.

    Where the sample is all training cells, this is what is found in memory. Else components are those of the sample,
    on which every cell has its own place; what an ensemble says of a cell is what it says of the nearest cell of the
    sample on these components.

    Raises:
        InputError: the file is gone or broken, or an ensemble is asked for that the data cannot have.
    """
    logged, seed = fitted.log_values_ng, config.seed
    sample = train_idx[logged.drawn(len(train_idx), seed)]
    log_ng = logged.rows(sample)
    if neighbours_wanted or config.ensemble_of is not None:
        require_differences(log_ng, source.name)
    ensemble = None
    if config.ensemble_of is not None:
        compared = replace(source, values_ng=source.values_ng.rows(sample))
        every = np.arange(len(sample))
        ensemble = ensemble_of(replace(fitted, log_values_ng=log_ng), compared, every, config.ensemble_of, seed)
    by_ensemble = ensemble is not None and config.copies.neighbour_space == "ensemble"
    whole = len(sample) == len(train_idx)
    points_np, like_n = np.zeros((0, 1), np.float32), np.arange(len(train_idx))
    if whole and not by_ensemble:
        points_np = principal_components(log_ng, config.copies.neighbour_pcs, seed)
    elif not whole:
        points_np = _projected(logged, train_idx, fit_components(log_ng, config.copies.neighbour_pcs, seed))
        if ensemble is not None:
            like_n = _nearest_of(points_np[np.searchsorted(train_idx, sample)], points_np)
    guess = places = None
    if ensemble is not None:
        guess = _spread(ensemble.guess_n[like_n], train_idx, source.n_cells)
    if neighbours_wanted:
        where_n = like_n if by_ensemble else np.arange(len(train_idx))
        points_np = ensemble.points_nk if ensemble is not None and by_ensemble else points_np
        at_n = _spread(where_n, train_idx, source.n_cells)
        room = min(fitted.values_ng.buffer_cells, len(train_idx))
        places = Places.divided(points_np, at_n, config.copies.n_neighbours, room, seed)
    return places, guess


def _projected(logged: RowsOnDisk, train_idx: np.ndarray, pca: PCA) -> np.ndarray:
    """Components of all training cells, in one pass, shape (n_train, p) float32."""
    points_np = np.empty((len(train_idx), pca.n_components_), np.float32)
    with logged.opened() as read:
        for at in range(0, len(train_idx), _BLOCK):
            points_np[at : at + _BLOCK] = pca.transform(read(train_idx[at : at + _BLOCK]))
    return points_np


def _nearest_of(few_mp: np.ndarray, points_np: np.ndarray) -> np.ndarray:
    """Which of a few points is nearest to each point, by an approximate search."""
    index = Index(ndim=few_mp.shape[1], metric="l2sq", dtype="f32")
    index.add(np.arange(len(few_mp)), few_mp, threads=1)  # several insert in an order that differs from run to run
    return index.search(points_np, 1).keys.astype(np.int64).ravel()


def _spread(values_n: np.ndarray, train_idx: np.ndarray, n: int) -> np.ndarray:
    """Values of the training cells by row of the data, -1 elsewhere."""
    out_n = np.full(n, -1, np.int64)
    out_n[train_idx] = values_n
    return out_n
