"""A cluster ensemble (Strehl and Ghosh 2002): many k-means partitions of the cells, combined into an embedding.

A single partition depends on the view (normalisation and number of components), on the number of clusters and on the
initialisation. Cells that most partitions put into one cluster are similar in every view. With B the concatenated
one-hot codes of the partitions, B B^T counts in how many of them two cells are together; the cells are embedded by its
leading eigenvectors after normalisation by degree. These are the left singular vectors of D^-1/2 B, so no n x n matrix
is needed.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.extmath import randomized_svd

from cplmix_ray.clustering.merging import merge_by_lift

_SMALL = 20_000
"""Largest number of cells for full-batch k-means; above, minibatches are used."""
_FINER = (1, 2, 3, 4)
"""Numbers of clusters of the partitions, in units of K."""
_COMPONENTS = (20, 50)
_REPEATS = 3
_FINE, _RUNS = (2, 3, 4), 4
"""The embedding is clustered into these multiples of K clusters, each so many times, which are then merged to K."""


@dataclass(frozen=True)
class Ensemble:
    """Result of combining the partitions.

    Attributes:
        points_nk: embedding of the cells, shape (n, K); cells that are near each other are together in most partitions.
        guess_n: a category 0..K-1 of each cell, shape (n,).
    """

    points_nk: np.ndarray
    guess_n: np.ndarray


def build_ensemble(views: Sequence[np.ndarray], n_categories: int, seed: int) -> Ensemble:
    """Partition every view many times and combine the partitions.

    Args:
        views: principal components of the cells under different normalisations, each (n, p).
        n_categories: K.
    """
    codes = _codes(_partitions(views, n_categories, seed))
    degree_n = codes @ np.asarray(codes.sum(axis=0)).ravel()
    n_vectors = max(1, min(n_categories, min(codes.shape) - 1))
    vectors, _, _ = randomized_svd(sp.diags(1.0 / np.sqrt(degree_n)) @ codes, n_vectors, random_state=seed)
    points_nk = np.ascontiguousarray(vectors / np.sqrt(degree_n)[:, None], dtype=np.float32)
    points_nk /= points_nk.std() or 1.0
    return Ensemble(points_nk, _consensus(points_nk, codes, n_categories, seed))


def _partitions(views: Sequence[np.ndarray], n_categories: int, seed: int) -> list[np.ndarray]:
    partitions = []
    for number, view_np in enumerate(views):
        for n_components in _COMPONENTS:
            points_np = view_np[:, :n_components]
            # Unit length, as sequencing depth, which says nothing about the type, changes the length most.
            points_np = points_np / np.maximum(np.linalg.norm(points_np, axis=1, keepdims=True), 1e-12)
            for finer in _FINER:
                for repeat in range(_REPEATS):
                    seed_of_run = np.random.SeedSequence([seed, number, n_components, finer, repeat]).generate_state(1)[
                        0
                    ]
                    partitions.append(_k_means(points_np, finer * n_categories, int(seed_of_run)))
    return partitions


def _k_means(points_np: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    n_clusters = max(1, min(n_clusters, len(points_np)))
    if len(points_np) <= _SMALL:
        method = KMeans(n_clusters, n_init=1, max_iter=50, random_state=seed)
    else:
        method = MiniBatchKMeans(n_clusters, n_init=1, batch_size=4096, random_state=seed)
    with warnings.catch_warnings():
        # Fewer clusters than asked for are right if there are fewer distinct points.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return method.fit_predict(points_np)


def _codes(partitions: list[np.ndarray]) -> sp.csr_matrix:
    """One-hot codes side by side, shape (n, all clusters)."""
    return sp.hstack([_one_hot(partition_n) for partition_n in partitions], format="csr")


def _one_hot(partition_n: np.ndarray) -> sp.csr_matrix:
    n = len(partition_n)
    return sp.csr_matrix((np.ones(n), (np.arange(n), partition_n)))


def _consensus(points_nk: np.ndarray, codes: sp.csr_matrix, n_categories: int, seed: int) -> np.ndarray:
    """Categories from fine clusters of the embedding, merged by how often the partitions put their cells together.

    Of several such clusterings, the one with the largest mean adjusted Rand index to the others is returned.
    """
    clusterings = []
    for finer in _FINE:
        for run in range(_RUNS):
            fine_n = _k_means(points_nk, finer * n_categories, seed + 1000 * finer + run)
            together = _one_hot(fine_n).T @ codes
            joint_kl = (together @ together.T).toarray()
            sizes_k = np.bincount(fine_n, minlength=len(joint_kl))
            clusterings.append(merge_by_lift(joint_kl, sizes_k, n_categories)[fine_n])
    agreement = [sum(adjusted_rand_score(own_n, other_n) for other_n in clusterings) for own_n in clusterings]
    return clusterings[int(np.argmax(agreement))]
