"""Where cells on disk are, so that neighbours can be found among those that are in memory together."""

from dataclasses import dataclass

import numpy as np

from cplmix_ray.data.neighbors.nearest import EXACT_UP_TO, nearest

REGION_CELLS = 512
"""Cells of a buffer in a region, on average: neighbours are sought within regions, at a cost that grows with them."""


@dataclass(frozen=True)
class Places:
    """Places of the cells of a data set.

    Attributes:
        points_mp: places, float32; several cells may have the same.
        at_n: which place each cell has; -1 for cells that are no training cells.
        region_m: a part of space in which each place lies, so that near ones mostly have the same.
        k: neighbours of a cell.
    """

    points_mp: np.ndarray
    at_n: np.ndarray
    region_m: np.ndarray
    k: int

    @classmethod
    def divided(cls, points_mp: np.ndarray, at_n: np.ndarray, k: int, buffer_cells: int, seed: int) -> "Places":
        """Places with space divided so finely that the regions of a buffer are small."""
        k = min(k, max(1, int((at_n >= 0).sum()) - 1))
        n_regions = min(len(points_mp), -(-buffer_cells // REGION_CELLS))
        if n_regions < 2 or buffer_cells <= EXACT_UP_TO:
            return cls(points_mp, at_n, np.zeros(len(points_mp), np.int32), k)
        from sklearn.cluster import MiniBatchKMeans  # workers know places, and need no scikit-learn to hold them

        means = MiniBatchKMeans(n_regions, init="random", n_init=1, batch_size=8192, max_iter=20, random_state=seed)
        return cls(points_mp, at_n, means.fit_predict(points_mp).astype(np.int32), k)

    def near(self, idx_n: np.ndarray) -> np.ndarray:
        """For each of some training cells its nearest others among them, as positions in ``idx_n``, shape (n, k).

        Exact among a few cells, else within regions. A cell that has too few others there stands in for the rest.
        """
        at_n = self.at_n[idx_n]
        if len(idx_n) <= EXACT_UP_TO:
            return nearest(self.points_mp[at_n], self.k)
        near_nk = np.repeat(np.arange(len(idx_n))[:, None], self.k, axis=1)
        by_region = np.argsort(self.region_m[at_n], kind="stable")
        cuts = np.flatnonzero(np.diff(self.region_m[at_n[by_region]])) + 1
        for members_n in np.split(by_region, cuts):
            # A region that very many share is dealt out: each part has cells of all of it.
            parts = -(-len(members_n) // (2 * REGION_CELLS))
            for part_n in (members_n[first::parts] for first in range(parts)):
                found = _nearest_of_few(self.points_mp[at_n[part_n]], self.k)
                near_nk[part_n, : found.shape[1]] = part_n[found]
        return near_nk


def _nearest_of_few(points_np: np.ndarray, k: int) -> np.ndarray:
    """Indices (n, k) of the nearest other points, in no order; fewer columns where there are fewer points."""
    n = len(points_np)
    k = min(k, n - 1)
    if k < 1:
        return np.zeros((n, 0), np.int64)
    # |a - b|^2 without |a|^2, which is the same in a row.
    distance_nn = np.square(points_np).sum(axis=1) - 2.0 * (points_np @ points_np.T)
    np.fill_diagonal(distance_nn, np.inf)
    return np.argpartition(distance_nn, k - 1, axis=1)[:, :k] if k < n - 1 else np.argsort(distance_nn, axis=1)[:, :k]
