"""Which training cells are alike: neighbours for the copies, and a first guess of their categories."""

from dataclasses import dataclass

import numpy as np

from cplmix_ray.config import Config
from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.neighbors.graph_on_disk import places_and_guess
from cplmix_ray.data.neighbors.index import Places
from cplmix_ray.data.neighbors.initial_clustering import ensemble_of
from cplmix_ray.data.neighbors.nearest import nearest
from cplmix_ray.data.neighbors.principal_components import principal_components, require_differences
from cplmix_ray.data.preprocessing.fit import Fitted
from cplmix_ray.data.source import Source


@dataclass(frozen=True)
class Alike:
    """Tables over all rows of the data, so that they are indexed by row.

    Attributes:
        neighbours: (n, k) rows of training cells near each training cell, other rows point to themselves; None where
            copies need none.
        guess: (n,) category of each training cell, -1 in other rows; None where no ensemble is asked for.
        places: in the stead of ``neighbours`` where cells stay on disk.
    """

    neighbours: np.ndarray | None
    guess: np.ndarray | None
    places: Places | None = None


def find_alike(fitted: Fitted, source: Source, train_idx: np.ndarray, config: Config, neighbours_wanted: bool) -> Alike:
    """Neighbours and a guess from the training cells alone.

    Raises:
        InputError: the cells do not differ, or an ensemble is asked for that the data cannot have.
    """
    if isinstance(fitted.values_ng, RowsOnDisk):
        places, guess = places_and_guess(fitted, source, train_idx, config, neighbours_wanted)
        return Alike(None, guess, places)
    n_categories, ensemble = config.ensemble_of, None
    if neighbours_wanted or n_categories is not None:
        require_differences(fitted.log_values_ng[train_idx], source.name)
    if n_categories is not None:
        ensemble = ensemble_of(fitted, source, train_idx, n_categories, config.seed)
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
