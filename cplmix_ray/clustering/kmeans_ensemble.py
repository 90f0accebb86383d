"""A cluster ensemble (Strehl and Ghosh 2002): many k-means partitions, and what they have in common.

Single partitions of cells depend on the view (which normalisation, how many components), on the number of clusters and
on luck. Two cells that most partitions keep together are alike whatever the view. With B the partitions' one-hot codes
side by side, B B^T counts how many of them keep two cells together; the cells are embedded by its leading eigenvectors
after normalisation by degree, which are the left singular vectors of D^-1/2 B, so that no n x n matrix is ever made.
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
"""Cells up to which k-means sees all of them at every iteration."""
_FINER = (1, 2, 3, 4)
"""Clusters of the partitions, in units of K."""
_COMPONENTS = (20, 50)
_REPEATS = 3
_FINE, _CUTS = (2, 3, 4), 4
"""The embedding is cut into that many times K clusters, that often, which are merged to K."""


@dataclass(frozen=True)
class Ensemble:
    """What the partitions have in common.

    Attributes:
        points_nk: embedding of the cells, shape (n, K); near cells are together in most partitions.
        guess_n: a category 0..K-1 of each cell, shape (n,).
    """

    points_nk: np.ndarray
    guess_n: np.ndarray


def build_ensemble(views: Sequence[np.ndarray], n_categories: int, seed: int) -> Ensemble:
    """Partition every view many times, and draw the sum.

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
    return Ensemble(points_nk, _guess(points_nk, codes, n_categories, seed))


def _partitions(views: Sequence[np.ndarray], n_categories: int, seed: int) -> list[np.ndarray]:
    partitions = []
    for number, view_np in enumerate(views):
        for n_components in _COMPONENTS:
            points_np = view_np[:, :n_components]
            # Directions alone: how many molecules of a cell were seen is not what tells its type.
            points_np = points_np / np.maximum(np.linalg.norm(points_np, axis=1, keepdims=True), 1e-12)
            for finer in _FINER:
                for repeat in range(_REPEATS):
                    luck = np.random.SeedSequence([seed, number, n_components, finer, repeat]).generate_state(1)[0]
                    partitions.append(_k_means(points_np, finer * n_categories, int(luck)))
    return partitions


def _k_means(points_np: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    n_clusters = max(1, min(n_clusters, len(points_np)))
    if len(points_np) <= _SMALL:
        method = KMeans(n_clusters, n_init=1, max_iter=50, random_state=seed)
    else:
        method = MiniBatchKMeans(n_clusters, n_init=1, batch_size=4096, random_state=seed)
    with warnings.catch_warnings():
        # Cells that no partition tells apart are one point; fewer clusters then come out, as they should.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return method.fit_predict(points_np)


def _codes(partitions: list[np.ndarray]) -> sp.csr_matrix:
    """One-hot codes side by side, shape (n, all clusters)."""
    return sp.hstack([_one_hot(partition_n) for partition_n in partitions], format="csr")


def _one_hot(partition_n: np.ndarray) -> sp.csr_matrix:
    n = len(partition_n)
    return sp.csr_matrix((np.ones(n), (np.arange(n), partition_n)))


def _guess(points_nk: np.ndarray, codes: sp.csr_matrix, n_categories: int, seed: int) -> np.ndarray:
    """Fine clusters of the embedding, merged by how often the partitions keep their cells together.

    Of several such cuts the one is taken that is most like the others, by their mean adjusted Rand index.
    """
    cuts = []
    for finer in _FINE:
        for cut in range(_CUTS):
            fine_n = _k_means(points_nk, finer * n_categories, seed + 1000 * finer + cut)
            together = _one_hot(fine_n).T @ codes
            joint_kl = (together @ together.T).toarray()
            sizes_k = np.bincount(fine_n, minlength=len(joint_kl))
            cuts.append(merge_by_lift(joint_kl, sizes_k, n_categories)[fine_n])
    likeness = [sum(adjusted_rand_score(cut_n, other_n) for other_n in cuts) for cut_n in cuts]
    return cuts[int(np.argmax(likeness))]
