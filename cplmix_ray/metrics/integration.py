"""Integration scores: how mixed batches are among the neighbours of a cell, and whether types stay apart.

They are those of scib-metrics (Luecken et al. 2022), which ``pip install 'cplmix_ray[integration]'`` installs.
"""

import importlib.util
import logging
import warnings

import numpy as np

from cplmix_ray.utils.errors import InputError

MOST_CELLS = 5000
"""Scores are computed on at most this many cells."""

_NEIGHBORS = {"lisi": 90, "kbet": 50, "graph": 15}
"""Neighbours of each cell, itself included; as many as in scib-metrics."""


def joint_coordinates(probs_nk: np.ndarray, state_nd: np.ndarray) -> np.ndarray:
    """Coordinates of cells with a category and a state: the posteriors beside the states, shape (n, K + d).

    In every category, the states are centred and scaled to a total variance of 1: two cells of one category are at a
    mean squared distance of 2, as much as the posteriors of two cells that are certain of different categories. What
    the states of a category hold of the batch is thus as visible as batches that have categories of their own.

    Args:
        probs_nk: posteriors; the category of a cell is its most probable one.
        state_nd: states.
    """
    category_n, scaled_nd = probs_nk.argmax(axis=1), np.empty(state_nd.shape, np.float32)
    for k in np.unique(category_n):
        of_k = category_n == k
        centred_md = state_nd[of_k] - state_nd[of_k].mean(axis=0)
        sd = np.sqrt(centred_md.var(axis=0).sum())
        scaled_nd[of_k] = centred_md / (sd if sd > 0 else 1.0)
    return np.concatenate([probs_nk.astype(np.float32), scaled_nd], axis=1)


def can_score_integration() -> bool:
    """Whether scib-metrics is installed."""
    return importlib.util.find_spec("scib_metrics") is not None


def integration_scores(
    points_np: np.ndarray, batch_n: np.ndarray, labels_n: np.ndarray | None = None, seed: int = 0
) -> dict[str, float]:
    """Score coordinates of cells by the batches and types among their neighbours.

    Args:
        points_np: coordinates, such as those of :func:`joint_coordinates`.
        batch_n: batches.
        labels_n: known types, "" where unknown; with them, cells of unknown type are left out.
        seed: draws the cells if there are more than ``MOST_CELLS``.

    Returns:
        ``ilisi``; with at least two types ``clisi`` and ``graph_connectivity``; and where a type has enough cells of
        two batches ``kbet`` and ``bras``. Nothing if all cells are of one batch.

    Raises:
        InputError: scib-metrics is not installed.
    """
    if not can_score_integration():
        raise InputError("scib-metrics is not installed; install it with: pip install 'cplmix_ray[integration]'.")
    idx_n = np.arange(len(batch_n)) if labels_n is None else np.flatnonzero(np.asarray(labels_n) != "")
    if len(idx_n) > MOST_CELLS:
        idx_n = np.sort(np.random.default_rng(seed).choice(idx_n, MOST_CELLS, replace=False))
    batch_n = np.unique(np.asarray(batch_n)[idx_n], return_inverse=True)[1]
    if len(np.unique(batch_n)) < 2:
        return {}
    type_n = None if labels_n is None else np.unique(np.asarray(labels_n)[idx_n], return_inverse=True)[1]
    from cplmix_ray.utils.threads import torch_threads

    with torch_threads(None), warnings.catch_warnings():  # what scib-metrics imports changes torch's threads
        warnings.simplefilter("ignore")  # scib-metrics, and what it imports, warn of their own future
        return _scores(np.asarray(points_np[idx_n], np.float32), batch_n, type_n)


def _scores(points_np: np.ndarray, batch_n: np.ndarray, type_n: np.ndarray | None) -> dict[str, float]:
    import scib_metrics
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    scib_metrics.settings.verbosity = logging.WARNING
    most = min(max(_NEIGHBORS.values()), len(points_np))
    distance_nj, near_nj = NearestNeighbors(n_neighbors=most).fit(points_np).kneighbors(points_np)
    near = {use: NeighborsResults(near_nj[:, :j], distance_nj[:, :j]) for use, j in _NEIGHBORS.items()}
    scores = {"ilisi": scib_metrics.ilisi_knn(near["lisi"], batch_n)}
    if type_n is not None and len(np.unique(type_n)) > 1:
        scores["clisi"] = scib_metrics.clisi_knn(near["lisi"], type_n)
        scores["graph_connectivity"] = scib_metrics.graph_connectivity(near["graph"], type_n)
    if type_n is not None and _any_mixed_type(batch_n, type_n):
        scores["kbet"] = scib_metrics.kbet_per_label(near["kbet"], batch_n, type_n)
        scores["bras"] = scib_metrics.bras(points_np, type_n, batch_n)
    return {name: float(value) for name, value in scores.items() if np.isfinite(value)}


def _any_mixed_type(batch_n: np.ndarray, type_n: np.ndarray) -> bool:
    """Whether a type has two batches and at least 10 cells, which kBET requires."""
    return any((type_n == t).sum() >= 10 and len(np.unique(batch_n[type_n == t])) > 1 for t in np.unique(type_n))
