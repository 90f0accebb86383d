"""The ensemble of partitions of some cells, from what was read and what was made of it."""

import numpy as np

from cplmix_ray.clustering.kmeans_ensemble import Ensemble, build_ensemble
from cplmix_ray.data.neighbors.normalized_components import views_of
from cplmix_ray.data.preprocessing.fit import Fitted
from cplmix_ray.data.source import Source, Values
from cplmix_ray.utils.errors import InputError


def ensemble_of(fitted: Fitted, source: Source, train_idx: np.ndarray, n_categories: int, seed: int) -> Ensemble:
    """Partitions of the training cells on the genes that the arms see.

    Raises:
        InputError: they are images.
    """
    if fitted.preparation.kind == "images":
        raise InputError("--neighbour-space ensemble and --align-guess are for cells; leave them out for images.")
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
