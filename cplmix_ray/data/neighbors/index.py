"""Nearest neighbours of cells: of all at once, and among cells on disk that are in memory together.

Workers import this module; scikit-learn and usearch are loaded where they are used.
"""

from dataclasses import dataclass

import numpy as np

REGION_CELLS = 512
"""Cells of a buffer in a region, on average: neighbours are sought within regions, at a cost that grows with them."""
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


@dataclass(frozen=True)
class NeighborIndex:
    """Points at which the cells of a data set are, to find neighbours among some of them.

    Attributes:
        points_mp: coordinates of the points, float32; several cells may share one.
        at_n: point of each cell; -1 for cells that are no training cells.
        region_m: region of space in which each point lies; near points are mostly in the same one.
        n_neighbors: neighbours of a cell.
    """

    points_mp: np.ndarray
    at_n: np.ndarray
    region_m: np.ndarray
    n_neighbors: int

    @classmethod
    def build(
        cls, points_mp: np.ndarray, at_n: np.ndarray, n_neighbors: int, buffer_cells: int, seed: int
    ) -> "NeighborIndex":
        """Divide space into regions that hold about ``REGION_CELLS`` cells of a buffer."""
        n_neighbors = min(n_neighbors, max(1, int((at_n >= 0).sum()) - 1))
        n_regions = min(len(points_mp), -(-buffer_cells // REGION_CELLS))
        if n_regions < 2 or buffer_cells <= EXACT_UP_TO:
            return cls(points_mp, at_n, np.zeros(len(points_mp), np.int32), n_neighbors)
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(n_regions, init="random", n_init=1, batch_size=8192, max_iter=20, random_state=seed)
        return cls(points_mp, at_n, means.fit_predict(points_mp).astype(np.int32), n_neighbors)

    def neighbors(self, idx_n: np.ndarray) -> np.ndarray:
        """For each of some training cells its nearest others among them, as positions in ``idx_n``, shape (n, j).

        Exact among a few cells, else within regions. Where a region has too few others, the cell itself fills up.
        """
        at_n = self.at_n[idx_n]
        if len(idx_n) <= EXACT_UP_TO:
            return nearest(self.points_mp[at_n], self.n_neighbors)
        near_nj = np.repeat(np.arange(len(idx_n))[:, None], self.n_neighbors, axis=1)
        by_region = np.argsort(self.region_m[at_n], kind="stable")
        cuts = np.flatnonzero(np.diff(self.region_m[at_n[by_region]])) + 1
        for members_n in np.split(by_region, cuts):
            # A very large region is dealt out into parts that each have cells of all of it.
            parts = -(-len(members_n) // (2 * REGION_CELLS))
            for part_n in (members_n[first::parts] for first in range(parts)):
                found = _nearest_of_few(self.points_mp[at_n[part_n]], self.n_neighbors)
                near_nj[part_n, : found.shape[1]] = part_n[found]
        return near_nj


def _nearest_of_few(points_np: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Indices (n, j) of the nearest other points, in no order; fewer columns where there are fewer points."""
    n = len(points_np)
    j = min(n_neighbors, n - 1)
    if j < 1:
        return np.zeros((n, 0), np.int64)
    # |a - b|^2 without |a|^2, which is the same in a row.
    distance_nn = np.square(points_np).sum(axis=1) - 2.0 * (points_np @ points_np.T)
    np.fill_diagonal(distance_nn, np.inf)
    return np.argpartition(distance_nn, j - 1, axis=1)[:, :j] if j < n - 1 else np.argsort(distance_nn, axis=1)[:, :j]
