"""Which training cells are alike: neighbours for the copies, and a first guess of their categories."""

from dataclasses import dataclass

import numpy as np

from cplmix_ray.clusters.ensemble import Ensemble, build_ensemble
from cplmix_ray.config import Config
from cplmix_ray.data.fit import Fitted
from cplmix_ray.data.neighbours import nearest, principal_components
from cplmix_ray.data.on_disk import RowsOnDisk
from cplmix_ray.data.source import Source, Values
from cplmix_ray.data.views import views_of
from cplmix_ray.errors import InputError


@dataclass(frozen=True)
class Alike:
    """Tables over all rows of the data, so that they are indexed by row.

    Attributes:
        neighbours: (n, k) rows of training cells near each training cell, other rows point to themselves; None where
            copies need none.
        guess: (n,) category of each training cell, -1 in other rows; None where no ensemble is asked for.
    """

    neighbours: np.ndarray | None
    guess: np.ndarray | None


def find_alike(fitted: Fitted, source: Source, train_idx: np.ndarray, config: Config, neighbours_wanted: bool) -> Alike:
    """Neighbours and a guess from the training cells alone.

    Raises:
        InputError: an ensemble is asked for that the data cannot have.
    """
    n_categories, ensemble = config.ensemble_of, None
    if n_categories is not None:
        ensemble = _ensemble(fitted, source, train_idx, n_categories, config.seed)
    neighbours = guess = None
    if neighbours_wanted:
        if ensemble is not None and config.copies.neighbour_space == "ensemble":
            points = ensemble.points_nk
        else:
            log_ng = fitted.log_values_ng[train_idx]
            points = principal_components(log_ng, config.copies.neighbour_pcs, config.seed)
        near = nearest(points, config.copies.n_neighbours)
        neighbours = np.repeat(np.arange(source.n_cells)[:, None], near.shape[1], axis=1)
        neighbours[train_idx] = train_idx[near]
    if ensemble is not None:
        guess = np.full(source.n_cells, -1, dtype=np.int64)
        guess[train_idx] = ensemble.guess_n
    return Alike(neighbours, guess)


def _ensemble(fitted: Fitted, source: Source, train_idx: np.ndarray, n_categories: int, seed: int) -> Ensemble:
    """Partitions of the training cells on the genes that the arms see."""
    if fitted.preparation.kind == "images":
        raise InputError("--neighbour-space ensemble and --align-guess are for cells; leave them out for images.")
    if isinstance(source.values_ng, RowsOnDisk):
        raise InputError(
            "--neighbour-space ensemble and --align-guess (and with them --preset cells) compare cells that are all in "
            "memory, and these stay on disk; leave them out, or use --backed no, with --subset where memory is short."
        )
    at = source.adata.var_names.get_indexer(list(fitted.preparation.var_names))
    log_ng = fitted.log_values_ng[:, at][train_idx]
    views = views_of(log_ng, _linear(fitted, source, log_ng, at, train_idx), seed)
    return build_ensemble(views, n_categories, seed)


def _linear(fitted: Fitted, source: Source, log_ng: Values, at: np.ndarray, train_idx: np.ndarray) -> Values | None:
    """Expression proportional to counts: as it was read where it was normalised here, else undoing the logarithm."""
    if fitted.preparation.kind == "counts" or fitted.preparation.target_sum is not None:
        return source.values_ng[:, at][train_idx]
    smallest, largest = float(log_ng.min()), float(log_ng.max())
    return None if smallest < 0 or largest > 30 else np.expm1(log_ng)
