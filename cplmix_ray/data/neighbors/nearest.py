"""The nearest cells of every cell. Workers know this file, and load scikit-learn where they look for neighbours."""

import numpy as np

EXACT_UP_TO = 20_000
"""Cells up to which the exact search is used; beyond, a hierarchical navigable small-world graph."""


def nearest(points_np: np.ndarray, k: int) -> np.ndarray:
    """Indices (n, k) of each point's nearest other points; fewer columns where there are fewer points."""
    n = len(points_np)
    k = min(k, n - 1)
    if k < 1:
        return np.arange(n, dtype=np.int64)[:, None]
    if n <= EXACT_UP_TO:
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points_np)
        return search.kneighbors(return_distance=False).astype(np.int64)
    return _approximate(points_np, k)


def _approximate(points_np: np.ndarray, k: int) -> np.ndarray:
    from usearch.index import Index

    n = len(points_np)
    index = Index(ndim=points_np.shape[1], metric="l2sq", dtype="f32")
    # One thread: several insert in an order that differs from run to run, and the graph with it.
    index.add(np.arange(n), points_np, threads=1)
    found = index.search(points_np, k + 1).keys.astype(np.int64)
    # The point itself usually comes first; drop it where it is, and the farthest where it is not.
    itself = found == np.arange(n)[:, None]
    itself[~itself.any(axis=1), -1] = True
    return found[~itself].reshape(n, k)
