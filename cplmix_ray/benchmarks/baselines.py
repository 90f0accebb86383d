"""Other methods: the initial clustering alone, clustering of principal components or of the latent space of scVI."""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import anndata
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp

from cplmix_ray.benchmarks.entries import Baseline
from cplmix_ray.config import RunConfig
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.neighbors.principal_components import principal_components, require_differences
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import check_finite
from cplmix_ray.data.source import Source
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.utils.errors import InputError

_NEEDS = {"leiden": ("igraph",), "scvi_kmeans": ("scvi",)}
_REMEDY = {"leiden": "pip install 'cplmix_ray[bench]'", "scvi_kmeans": "pip install scvi-tools"}


@dataclass(frozen=True)
class Clustering:
    """Categories of n cells, and a note for the column ``detail``."""

    category_n: np.ndarray
    detail: str = ""


def require_method(method: str) -> None:
    """Check that the packages of a method are installed.

    Raises:
        InputError: one is missing.
    """
    missing = [name for name in _NEEDS.get(method, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"The method {method} needs {missing[0]}; install it with: {_REMEDY[method]}.")


def find_clusters(method: str, source: Source, k: int, config: RunConfig, settings: Baseline) -> Clustering:
    """Cluster cells prepared by the input section of ``config``, with its seed.

    Raises:
        InputError: the cells do not fit the method, or a package is missing.
    """
    require_method(method)
    check_finite(source.matrix, source)
    if k > source.n_cells:
        raise InputError(f"{source.name} has {source.n_cells} cells, fewer than {k} categories; lower n_categories.")
    if method == "initial_clustering":
        return _initial_clustering(source, config)
    if method == "scvi_kmeans":
        return _scvi_kmeans(source, k, config, settings)
    values_ng = fit_preparation(source, config.input).matrix.block()
    require_differences(values_ng, source.name)
    points = _components(values_ng, settings)
    found = _ON_POINTS[method](points, k, config.seed, settings)
    return replace(found, detail=", ".join(filter(None, (f"{points.shape[1]} PCs", found.detail))))


def _initial_clustering(source: Source, config: RunConfig) -> Clustering:
    """The categories with which training begins, of all cells: none are held out."""
    guess_n = build_dataset(source, config.with_settings(input={"val_fraction": 0.0})).training.tables.guess
    if guess_n is None:
        raise InputError("These settings have no initial clustering; give the entry preset: cells.")
    return Clustering(guess_n[:, 0])


def _components(values_ng: Block, settings: Baseline) -> np.ndarray:
    """Principal components of the dense values; they do not depend on the seed of a run."""
    dense = values_ng.toarray() if sp.issparse(values_ng) else np.asarray(values_ng)
    if settings.scale:
        sd_g = dense.std(axis=0)
        dense = (dense - dense.mean(axis=0)) / np.where(sd_g > 0, sd_g, 1.0)
    return principal_components(dense, settings.pcs, 0)


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
    import scanpy

    cells = anndata.AnnData(points_np, obs=pd.DataFrame(index=[str(i) for i in range(len(points_np))]))
    fixed = {"random_state": seed, "flavor": "igraph", "n_iterations": 2, "directed": False, "key_added": "c"}

    def clusters_at(resolution: float) -> np.ndarray:
        scanpy.tl.leiden(cells, resolution=resolution, **fixed)
        return cells.obs["c"].astype(int).to_numpy()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy and what it imports warn of their own future
        near = min(settings.neighbours, len(points_np) - 1)
        scanpy.pp.neighbors(cells, n_neighbors=near, use_rep="X", random_state=seed, transformer="sklearn")
        category_n, resolution = resolve_clusters(clusters_at, k)
    found = len(np.unique(category_n))
    return Clustering(
        category_n, f"resolution {resolution:.4g}" + ("" if found == k else f", {found} clusters, never {k}")
    )


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


def _scvi_kmeans(source: Source, k: int, config: RunConfig, settings: Baseline) -> Clustering:
    """k-means on the latent means of scVI with its defaults, on the same genes as the other methods."""
    if source.image_shape is not None:
        raise InputError(f"{source.name} holds images, which the method scvi_kmeans cannot take; leave the entry out.")
    names = fit_preparation(source, config.input).preparation.var_names
    matrix = source.matrix.choose(columns_of(source.var_names, names, source.name))
    counts = matrix.statistics.counts
    if matrix.statistics.limits[0] < 0:
        raise InputError(f"{source.name} holds negative values, which scVI cannot take; name raw counts with layer.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scvi-tools and lightning warn of their own future
        import scvi

        logging.getLogger("lightning").setLevel(logging.ERROR)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        scvi.settings.seed, scvi.settings.verbosity = config.seed, logging.ERROR
        cells = anndata.AnnData(sp.csr_matrix(matrix.block()).rint().astype(np.float32))
        scvi.model.SCVI.setup_anndata(cells)
        model = scvi.model.SCVI(cells)
        model.train(max_epochs=settings.epochs, accelerator="cpu", devices=1, enable_progress_bar=False, logger=False)
        points = model.get_latent_representation()
    detail = f"scvi {scvi.__version__}, {model.trainer.current_epoch} epochs"
    return Clustering(
        _kmeans(points, k, config.seed, settings).category_n,
        detail + ("" if counts else ", values rounded to counts"),
    )


_ON_POINTS = {"kmeans": _kmeans, "leiden": _leiden, "ward": _ward, "gaussian_mixture": _gaussian_mixture}
"""Methods that cluster principal components: (points_np, k, seed, settings) -> clusters."""
