"""Neighbours of the training cells, and the initial clustering that guesses their categories."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sklearn.decomposition import PCA
from usearch.index import Index

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.neighbors.across_batches import nearest_cells
from cplmix_ray.data.neighbors.covariate_effects import without_effects
from cplmix_ray.data.neighbors.index import NeighborIndex
from cplmix_ray.data.neighbors.initial_clustering import InitialClustering
from cplmix_ray.data.neighbors.principal_components import fit_components, principal_components, require_differences
from cplmix_ray.data.preprocessing.fit import Fitted
from cplmix_ray.data.source import Source

Clusterer = Callable[[Fitted, Source, np.ndarray, np.ndarray, np.ndarray | None], InitialClustering]
"""Clusters the training cells, whose rows, columns of covariates and batches are the last arguments."""

_BLOCK = 8192
"""Cells on disk whose components are computed at once."""


@dataclass(frozen=True)
class NeighborGraph:
    """Neighbours and guessed categories, in tables that are indexed by row of the data.

    Attributes:
        neighbours: (n, j) rows of training cells near each training cell, other rows point to themselves; None where
            copies need none.
        guess: (n, m) initial categories of each training cell, -1 in other rows; None without initial clustering.
        places: takes the place of ``neighbours`` where cells stay on disk.
        n_categories: K of the initial clustering, if there is one.
    """

    neighbours: np.ndarray | None
    guess: np.ndarray | None
    places: NeighborIndex | None = None
    n_categories: int | None = None


def find_neighbors(
    fitted: Fitted,
    source: Source,
    train_idx: np.ndarray,
    *,
    seed: int,
    n_neighbors: int | None,
    n_components: int,
    cluster: Clusterer | None,
    in_clustering: bool,
    design_nv: np.ndarray | None = None,
    batch_n: np.ndarray | None = None,
) -> NeighborGraph:
    """Neighbors and initial categories from the training cells alone.

    Args:
        n_neighbors: neighbors of a cell; None where none are needed.
        n_components: principal components on which cells are compared.
        cluster: the initial clustering; None where none is needed.
        in_clustering: whether neighbors are found in the space of the initial clustering.
        design_nv: columns of the covariates of all cells, whose effects are removed; None without covariates.
        batch_n: batch of each cell, over which neighbors are balanced; None: batches do not matter.

    Raises:
        InputError: the cells do not differ, or a clustering is asked for that the data cannot have.
    """
    if design_nv is None:
        design_nv = np.zeros((source.n_cells, 0), np.float32)
    if fitted.matrix.on_disk:
        return _on_disk(
            fitted, source, train_idx, seed, n_neighbors, n_components, cluster, in_clustering, design_nv, batch_n
        )
    clustering = None
    if n_neighbors is not None or cluster is not None:
        require_differences(fitted.log_matrix.take(train_idx).block(), source.name)
    if cluster is not None:
        clustering = cluster(fitted, source, train_idx, design_nv[train_idx], _of(batch_n, train_idx))
    neighbours = guess = None
    if n_neighbors is not None:
        if clustering is not None and in_clustering:
            points = clustering.points_np
        else:
            points = principal_components(fitted.log_matrix.take(train_idx).block(), n_components, seed)
            points = without_effects(points, design_nv[train_idx])
        near = nearest_cells(points, _of(batch_n, train_idx), n_neighbors)
        neighbours = np.repeat(np.arange(source.n_cells)[:, None], near.shape[1], axis=1)
        neighbours[train_idx] = train_idx[near]
    if clustering is not None:
        guess = _spread(clustering.votes_nm, train_idx, source.n_cells)
    return NeighborGraph(neighbours, guess, n_categories=None if clustering is None else clustering.n_categories)


def _on_disk(
    fitted: Fitted,
    source: Source,
    train_idx: np.ndarray,
    seed: int,
    n_neighbors: int | None,
    n_components: int,
    cluster: Clusterer | None,
    in_clustering: bool,
    design_nv: np.ndarray,
    batch_n: np.ndarray | None,
) -> NeighborGraph:
    """The same for cells on disk, from a sample of them that fits into memory, with an index in place of neighbors.

    Where the sample is all training cells, this is what is found in memory. Else components are those of the sample,
    on which every cell has its own place; the initial clustering of a cell is that of the nearest cell of the sample on
    these components.
    """
    logged = fitted.log_matrix
    sample = train_idx[logged.draw_sample(len(train_idx), seed)]
    log_ng = logged.rows(sample)
    if n_neighbors is not None or cluster is not None:
        require_differences(log_ng, source.name)
    clustering = None
    if cluster is not None:
        compared = replace(source, matrix=InMemoryMatrix(source.matrix.rows(sample)))
        every = np.arange(len(sample))
        in_memory = replace(fitted, log_matrix=InMemoryMatrix(log_ng))
        clustering = cluster(in_memory, compared, every, design_nv[sample], _of(batch_n, sample))
    whole = len(sample) == len(train_idx)
    points_np, like_n = np.zeros((0, 1), np.float32), np.arange(len(train_idx))
    if whole and not in_clustering:
        points_np = without_effects(principal_components(log_ng, n_components, seed), design_nv[train_idx])
    elif not whole:
        points_np = _projected(logged, train_idx, fit_components(log_ng, n_components, seed))
        points_np = without_effects(points_np, design_nv[train_idx])
        if clustering is not None:
            like_n = _nearest_of(points_np[np.searchsorted(train_idx, sample)], points_np)
    guess = places = None
    if clustering is not None:
        guess = _spread(clustering.votes_nm[like_n], train_idx, source.n_cells)
    if n_neighbors is not None:
        where_n = like_n if in_clustering else np.arange(len(train_idx))
        points_np = clustering.points_np if clustering is not None and in_clustering else points_np
        at_n = _spread(where_n, train_idx, source.n_cells)
        room = min(fitted.matrix.buffer_cells, len(train_idx))
        places = NeighborIndex.build(points_np, at_n, n_neighbors, room, seed, batch_n)
    return NeighborGraph(None, guess, places, None if clustering is None else clustering.n_categories)


def _of(batch_n: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if batch_n is None else batch_n[rows]


def _projected(logged: Matrix, train_idx: np.ndarray, pca: PCA) -> np.ndarray:
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
    out_n = np.full((n, *values_n.shape[1:]), -1, np.int64)
    out_n[train_idx] = values_n
    return out_n
