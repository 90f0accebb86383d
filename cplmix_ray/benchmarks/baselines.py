"""Other methods: the initial clustering alone, and clustering of the coordinates of ``embeddings.py``."""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import psutil

from cplmix_ray.benchmarks.embeddings import components, harmony, scvi_latent
from cplmix_ray.benchmarks.entries import Baseline
from cplmix_ray.config import RunConfig
from cplmix_ray.data.preprocessing.preparation import check_finite
from cplmix_ray.data.source import Source
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.utils.errors import InputError

_NEEDS = {
    "leiden": ("igraph",),
    "leiden_default": ("igraph",),
    "harmony_leiden": ("harmonypy", "igraph"),
    "harmony_kmeans": ("harmonypy",),
    "scvi_kmeans": ("scvi",),
}
_EXTRA = "pip install 'cplmix_ray[bench]'"
_REMEDY = {"igraph": _EXTRA, "harmonypy": _EXTRA, "scvi": "pip install scvi-tools"}


@dataclass(frozen=True)
class Clustering:
    """Categories of n cells, a note for the column ``detail``, and the coordinates that were clustered, if any."""

    category_n: np.ndarray
    detail: str = ""
    points_np: np.ndarray | None = None


def require_method(method: str) -> None:
    """Check that the packages of a method are installed.

    Raises:
        InputError: one is missing.
    """
    for needed in _NEEDS.get(method, ()):
        if importlib.util.find_spec(needed) is None:
            raise InputError(f"The method {method} needs {needed}; install it with: {_REMEDY[needed]}.")


def find_clusters(method: str, source: Source, k: int | None, config: RunConfig, settings: Baseline) -> Clustering:
    """Cluster cells prepared by the input section of ``config``, with its seed.

    Args:
        k: number of clusters; None if the method finds it. Those of CHOOSE_NUMBER ignore it.

    Raises:
        InputError: the cells do not fit the method, or a package is missing.
    """
    require_method(method)
    check_finite(source.matrix, source)
    if k is not None and k > source.n_cells:
        raise InputError(f"{source.name} has {source.n_cells} cells, fewer than {k} categories; lower n_categories.")
    if method == "initial_clustering":
        return _initial_clustering(source, config)
    if k is None:
        raise InputError(f"The method {method} needs a number of categories, not auto; give n_categories one.")
    embed, cluster = _METHODS[method]
    embedding = embed(source, config, settings)
    found = cluster(embedding.points_np, k, config.seed, settings)
    detail = ", ".join(filter(None, (embedding.detail, found.detail)))
    return Clustering(found.category_n, detail, embedding.points_np)


def _initial_clustering(source: Source, config: RunConfig) -> Clustering:
    """The categories with which training begins, of all cells: none are held out."""
    guess_n = build_dataset(source, config.with_settings(input={"val_fraction": 0.0})).training.tables.guess
    if guess_n is None:
        raise InputError("These settings have no initial clustering; give the entry preset: cells.")
    return Clustering(guess_n[:, 0])


def _kmeans(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> Clustering:
    from sklearn.cluster import KMeans

    return Clustering(KMeans(k, n_init=settings.restarts, random_state=seed).fit_predict(points_np))


def _ward(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> Clustering:
    from sklearn.cluster import AgglomerativeClustering

    needed, free = 4 * len(points_np) ** 2, psutil.virtual_memory().available  # distances of all pairs, 8 bytes each
    if needed > free:
        raise InputError(f"The method ward needs {needed >> 30} GB for {len(points_np)} cells; leave it out.")
    return Clustering(AgglomerativeClustering(k, linkage="ward").fit_predict(points_np))


def _gaussian_mixture(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> Clustering:
    """A mixture whose components share one covariance matrix."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(k, covariance_type="tied", n_init=settings.restarts, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the row says it
        category_n = mixture.fit_predict(points_np.astype(np.float64))
    return Clustering(category_n, f"{mixture.n_iter_} iterations" + ("" if mixture.converged_ else ", not converged"))


def _leiden(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> Clustering:
    """Leiden clusters whose number is K or closest to it."""
    category_n, resolution = resolve_clusters(_leiden_clusters(points_np, seed, settings), k)
    found = len(np.unique(category_n))
    return Clustering(
        category_n, f"resolution {resolution:.4g}" + ("" if found == k else f", {found} clusters, never {k}")
    )


def _leiden_default(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> Clustering:
    """Leiden clusters at resolution 1."""
    return Clustering(_leiden_clusters(points_np, seed, settings)(1.0), "resolution 1")


def _leiden_clusters(points_np: np.ndarray, seed: int, settings: Baseline) -> Callable[[float], np.ndarray]:
    """Leiden clusters of the graph of cells as a function of the resolution."""
    cells = anndata.AnnData(points_np, obs=pd.DataFrame(index=[str(i) for i in range(len(points_np))]))
    fixed = {"random_state": seed, "flavor": "igraph", "n_iterations": 2, "directed": False, "key_added": "c"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy and what it imports warn of their own future
        import scanpy

        near = min(settings.neighbours, len(points_np) - 1)
        scanpy.pp.neighbors(cells, n_neighbors=near, use_rep="X", random_state=seed, transformer="sklearn")

    def clusters_at(resolution: float) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scanpy.tl.leiden(cells, resolution=resolution, **fixed)
        return cells.obs["c"].astype(int).to_numpy()

    return clusters_at


def _kmeans_silhouette(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> Clustering:
    """k-means with the number of clusters, at least 2, whose silhouette is largest."""
    from sklearn.metrics import silhouette_score

    best, best_score = Clustering(np.zeros(len(points_np), np.int64)), -np.inf
    sample = min(_SCORED, len(points_np))
    for number in range(2, min(settings.most_clusters, sample - 1) + 1):
        found = _kmeans(points_np, number, seed, settings)
        score = silhouette_score(points_np, found.category_n, sample_size=sample, random_state=seed)
        if score > best_score:
            best, best_score = found, score
    return Clustering(best.category_n, f"silhouette {best_score:.3f}")


def _gaussian_mixture_bic(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> Clustering:
    """A mixture with a common covariance matrix whose number of components has the smallest BIC."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    points_np, fits = points_np.astype(np.float64), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # such a fit is compared as it is
        for number in range(1, min(settings.most_clusters, len(points_np)) + 1):
            fits.append(GaussianMixture(number, covariance_type="tied", random_state=seed).fit(points_np))
    best = min(fits, key=lambda mixture: mixture.bic(points_np))
    return Clustering(best.predict(points_np), f"{best.n_components} components")


_HIGHEST = 1e6
"""Resolution at which the search for more clusters ends."""


def resolve_clusters(clusters_at: Callable[[float], np.ndarray], k: int) -> tuple[np.ndarray, float]:
    """Find K clusters by bisection of the resolution; if their number jumps over K, search around the jump.

    The number of clusters is not monotonic in the resolution, so K may occur on either side.
    """
    tried: list[tuple[int, float, np.ndarray]] = []
    low, high, at = 0.0, 20.0, 1.0
    while len(np.unique(clusters_at(high))) < k and high < _HIGHEST:
        low, high, at = high, 2 * high, 1.5 * high
    for _ in range(25):
        category_n = clusters_at(at)
        found = len(np.unique(category_n))
        tried.append((abs(found - k), at, category_n))
        if found == k:
            return category_n, at
        low, high = (at, high) if found < k else (low, at)
        at = (low + high) / 2
    for near in at * np.geomspace(0.5, 2.0, 25):
        category_n = clusters_at(near)
        tried.append((abs(len(np.unique(category_n)) - k), float(near), category_n))
    _, at, category_n = min(tried, key=lambda one: one[0])
    return category_n, at


_SCORED = 2_000
"""Cells on which a silhouette is computed."""
CHOOSE_NUMBER = ("leiden_default", "kmeans_silhouette", "gaussian_mixture_bic")
"""Methods that find the number of clusters themselves."""
_METHODS = {
    "kmeans": (components, _kmeans),
    "leiden": (components, _leiden),
    "leiden_default": (components, _leiden_default),
    "kmeans_silhouette": (components, _kmeans_silhouette),
    "gaussian_mixture_bic": (components, _gaussian_mixture_bic),
    "ward": (components, _ward),
    "gaussian_mixture": (components, _gaussian_mixture),
    "harmony_kmeans": (harmony, _kmeans),
    "harmony_leiden": (harmony, _leiden),
    "scvi_kmeans": (scvi_latent, _kmeans),
}
"""Method -> coordinates of the cells, and what clusters them."""
