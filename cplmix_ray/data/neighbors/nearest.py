"""Nearest neighbours: exact among a few cells, approximate among many.

Workers import this module; scikit-learn and usearch are loaded where they are used.
"""

import numpy as np

EXACT_UP_TO = 20_000
"""Cells up to which the exact search is used; beyond, a hierarchical navigable small-world graph."""


def nearest(points_np: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Indices (n, n_neighbors) of each point's nearest other points; fewer columns where there are fewer points."""
    n = len(points_np)
    n_neighbors = min(n_neighbors, n - 1)
    if n_neighbors < 1:
        return np.arange(n, dtype=np.int64)[:, None]
    if n <= EXACT_UP_TO:
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(points_np)
        return search.kneighbors(return_distance=False).astype(np.int64)
    return _approximate(points_np, n_neighbors)


def _approximate(points_np: np.ndarray, n_neighbors: int) -> np.ndarray:
    from usearch.index import Index

    n = len(points_np)
    index = Index(ndim=points_np.shape[1], metric="l2sq", dtype="f32")
    # One thread: several insert in an order that differs from run to run, and the graph with it.
    index.add(np.arange(n), points_np, threads=1)
    found = index.search(points_np, n_neighbors + 1).keys.astype(np.int64)
    # The point itself usually comes first; drop it where it is, and the farthest where it is not.
    itself = found == np.arange(n)[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(n, n_neighbors)


def nearest_of(queries_mp: np.ndarray, points_np: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Indices (m, n_neighbors) of the points nearest to each query; fewer columns where there are fewer points."""
    n_neighbors = min(n_neighbors, len(points_np))
    if len(points_np) <= EXACT_UP_TO:
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(points_np)
        return search.kneighbors(queries_mp, return_distance=False).astype(np.int64)
    from usearch.index import Index

    index = Index(ndim=points_np.shape[1], metric="l2sq", dtype="f32")
    index.add(np.arange(len(points_np)), points_np, threads=1)
    return index.search(queries_mp, n_neighbors).keys.astype(np.int64).reshape(len(queries_mp), -1)


def nearest_of_few(points_np: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Indices (n, j) of the nearest other points, in no order; fewer columns where there are fewer points."""
    n = len(points_np)
    j = min(n_neighbors, n - 1)
    if j < 1:
        return np.zeros((n, 0), np.int64)
    # |a - b|^2 without |a|^2, which is the same in a row.
    distance_nn = np.square(points_np).sum(axis=1) - 2.0 * (points_np @ points_np.T)
    np.fill_diagonal(distance_nn, np.inf)
    return np.argpartition(distance_nn, j - 1, axis=1)[:, :j] if j < n - 1 else np.argsort(distance_nn, axis=1)[:, :j]
