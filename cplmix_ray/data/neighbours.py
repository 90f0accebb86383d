"""The nearest cells of every cell, on principal components."""

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from cplmix_ray.data.source import Values

EXACT_UP_TO = 20_000
"""Cells up to which the exact search is used; beyond, a hierarchical navigable small-world graph."""


def principal_components(values_ng: Values, n_components: int, seed: int) -> np.ndarray:
    """Scores (n, p) on the leading principal components, float32; a sparse matrix is centred without filling it."""
    pca = _components(values_ng, n_components, seed)
    if pca is None:
        return np.zeros((values_ng.shape[0], 1), np.float32)
    return np.ascontiguousarray(pca.fit_transform(values_ng), dtype=np.float32)


def fit_components(values_ng: Values, n_components: int, seed: int) -> PCA:
    """The same components, of at least two cells and genes, for scores of other cells."""
    pca = _components(values_ng, n_components, seed)
    assert pca is not None
    return pca.fit(values_ng)


def _components(values_ng: Values, n_components: int, seed: int) -> PCA | None:
    """What finds components; None where there is no room for any."""
    room = min(values_ng.shape) - 1
    if room < 1:
        return None
    small = not sp.issparse(values_ng) and values_ng.shape[1] <= 2000
    if small:
        # Covariance once, eigenvectors of g x g: fast for many images of few pixels.
        return PCA(min(n_components, room), svd_solver="covariance_eigh")
    return PCA(min(n_components, room), svd_solver="arpack", random_state=seed)


def nearest(points_np: np.ndarray, k: int) -> np.ndarray:
    """Indices (n, k) of each point's nearest other points; fewer columns where there are fewer points."""
    n = len(points_np)
    k = min(k, n - 1)
    if k < 1:
        return np.arange(n, dtype=np.int64)[:, None]
    if n <= EXACT_UP_TO:
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
