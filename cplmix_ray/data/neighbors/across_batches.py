"""Nearest neighbours that are balanced over batches, on coordinates from which the effect of the batch was removed.

A neighbour in another batch has to be mutual: each of the two cells is among the nearest of the other's batch
(Haghverdi et al. 2018). The nearest cells that a batch has for a type that it lacks are of another type, and their own
nearest cells in the first batch are of that other type too, so that they are not mutual.
"""

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.neighbors.nearest import nearest, nearest_of

_PARTNERS = 5
"""Batches that follow a batch in a circle, with which it is compared: all others if there are at most 2 x 5 + 1."""


def nearest_cells(points_np: np.ndarray, batch_n: np.ndarray | None, n_neighbors: int) -> np.ndarray:
    """Indices (n, j) of each point's nearest other points, balanced over batches if there are any.

    Args:
        batch_n: batch of each point; None: batches do not matter.
    """
    if batch_n is None:
        return nearest(points_np, n_neighbors)
    return nearest_across_batches(points_np, batch_n, n_neighbors)


def nearest_across_batches(points_np: np.ndarray, batch_n: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Neighbours of each point, balanced over batches: indices (n, n_neighbors), which may repeat.

    Neighbours in other batches are mutual. A point without any has neighbours of its own batch alone, and one that is
    alone in its batch is its own neighbour.

    Args:
        batch_n: batch of each point.
    """
    near_nj, n_batches = _within(points_np, batch_n, n_neighbors), len(np.unique(batch_n))
    n_others = n_neighbors - max(1, n_neighbors // n_batches)
    if n_batches < 2 or n_others < 1:
        return near_nj
    at_m, partner_m = _mutual(points_np, batch_n, n_neighbors)
    starts_n, count_n = np.searchsorted(at_m, np.arange(len(points_np))), np.bincount(at_m, minlength=len(points_np))
    crossing = np.flatnonzero(count_n)
    picks = np.arange(n_others) % count_n[crossing, None]  # the partners again and again, if there are few
    near_nj[crossing, -n_others:] = partner_m[starts_n[crossing, None] + picks]
    return near_nj


def _within(points_np: np.ndarray, batch_n: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Neighbours in the own batch, (n, n_neighbors): the nearest ones again and again if there are few."""
    near_nj = np.empty((len(points_np), n_neighbors), np.int64)
    for batch in np.unique(batch_n):
        own = np.flatnonzero(batch_n == batch)
        found = own[nearest(points_np[own], n_neighbors)]
        near_nj[own] = found[:, np.arange(n_neighbors) % found.shape[1]]
    return near_nj


def _mutual(points_np: np.ndarray, batch_n: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of mutual neighbours in different batches: a point, ascending, and its partner. Of the partners of a point
    the nearest ones in each batch come first."""
    members = [np.flatnonzero(batch_n == batch) for batch in np.unique(batch_n)]
    pairs = {
        tuple(sorted((first, (first + step) % len(members))))
        for first in range(len(members))
        for step in range(1, min(_PARTNERS + 1, len(members)))
    }
    found = []
    for first, second in sorted(pairs):
        own, other = members[first], members[second]
        there = _ranks(points_np[own], points_np[other], n_neighbors)
        back = _ranks(points_np[other], points_np[own], n_neighbors).T.tocsr()
        rank = there.multiply(back > 0).tocoo()
        found.append(np.stack([own[rank.row], rank.data, other[rank.col]]))
        rank = back.multiply(there > 0).tocoo()
        found.append(np.stack([other[rank.col], rank.data, own[rank.row]]))
    at_m, rank_m, partner_m = np.concatenate(found, axis=1).astype(np.int64)
    order = np.lexsort((partner_m, rank_m, at_m))
    return at_m[order], partner_m[order]


def _ranks(queries_mp: np.ndarray, points_np: np.ndarray, n_neighbors: int) -> sp.csr_matrix:
    """Sparse (m, n): 1 for the point nearest to a query, 2 for the next, up to the number of neighbours."""
    near_mj = nearest_of(queries_mp, points_np, n_neighbors)
    n_found = near_mj.shape[1]
    ranks = np.tile(np.arange(1, n_found + 1), len(near_mj))
    starts = np.arange(0, near_mj.size + 1, n_found)
    return sp.csr_matrix((ranks, near_mj.ravel(), starts), shape=(len(queries_mp), len(points_np)))
