"""Nearest neighbours among cells on disk that are in memory together; workers import this module."""

from dataclasses import dataclass

import numpy as np

from cplmix_ray.data.neighbors.across_batches import nearest_cells
from cplmix_ray.data.neighbors.nearest import EXACT_UP_TO, nearest_of_few

REGION_CELLS = 512
"""Cells of a buffer in a region, on average: neighbours are sought within regions, at a cost that grows with them."""


@dataclass(frozen=True)
class NeighborIndex:
    """Points at which the cells of a data set are, to find neighbours among some of them.

    Attributes:
        points_mp: coordinates of the points, float32; several cells may share one.
        at_n: point of each cell; -1 for cells that are no training cells.
        region_m: region of space in which each point lies; near points are mostly in the same one.
        n_neighbors: neighbours of a cell.
        batch_n: batch of each cell, over which neighbours are balanced; None: batches do not matter.
    """

    points_mp: np.ndarray
    at_n: np.ndarray
    region_m: np.ndarray
    n_neighbors: int
    batch_n: np.ndarray | None = None

    @classmethod
    def build(
        cls,
        points_mp: np.ndarray,
        at_n: np.ndarray,
        n_neighbors: int,
        buffer_cells: int,
        seed: int,
        batch_n: np.ndarray | None = None,
    ) -> "NeighborIndex":
        """Divide space into regions that hold about ``REGION_CELLS`` cells of a buffer."""
        n_neighbors = min(n_neighbors, max(1, int((at_n >= 0).sum()) - 1))
        n_regions = min(len(points_mp), -(-buffer_cells // REGION_CELLS))
        if n_regions < 2 or buffer_cells <= EXACT_UP_TO:
            return cls(points_mp, at_n, np.zeros(len(points_mp), np.int32), n_neighbors, batch_n)
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(n_regions, init="random", n_init=1, batch_size=8192, max_iter=20, random_state=seed)
        return cls(points_mp, at_n, means.fit_predict(points_mp).astype(np.int32), n_neighbors, batch_n)

    def neighbors(self, idx_n: np.ndarray) -> np.ndarray:
        """For each of some training cells its nearest others among them, as positions in ``idx_n``, shape (n, j).

        Exact among a few cells, else within regions. Where a region has too few others, the cell itself fills up.
        """
        at_n = self.at_n[idx_n]
        if len(idx_n) <= EXACT_UP_TO:
            return nearest_cells(self.points_mp[at_n], self._batches(idx_n), self.n_neighbors)
        near_nj = np.repeat(np.arange(len(idx_n))[:, None], self.n_neighbors, axis=1)
        by_region = np.argsort(self.region_m[at_n], kind="stable")
        cuts = np.flatnonzero(np.diff(self.region_m[at_n[by_region]])) + 1
        for members_n in np.split(by_region, cuts):
            # A very large region is dealt out into parts that each have cells of all of it.
            parts = -(-len(members_n) // (2 * REGION_CELLS))
            for part_n in (members_n[first::parts] for first in range(parts)):
                points_np, batch_n = self.points_mp[at_n[part_n]], self._batches(idx_n[part_n])
                if batch_n is None:
                    found = nearest_of_few(points_np, self.n_neighbors)
                else:
                    found = nearest_cells(points_np, batch_n, self.n_neighbors)
                near_nj[part_n, : found.shape[1]] = part_n[found]
        return near_nj

    def _batches(self, idx_n: np.ndarray) -> np.ndarray | None:
        return None if self.batch_n is None else self.batch_n[idx_n]
