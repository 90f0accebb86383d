"""Other methods: k-means and Leiden on principal components, k-means on the latent space of scVI."""

import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.benchmarks.entries import Baseline
from cplmix_ray.config import RunConfig
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.neighbors.principal_components import principal_components, require_differences
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import check_finite
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError

_NEEDS = {"leiden": ("igraph",), "scvi_kmeans": ("scvi",)}
_REMEDY = {"leiden": "pip install 'cplmix_ray[bench]'", "scvi_kmeans": "pip install scvi-tools"}


@dataclass(frozen=True)
class Clustering:
    """Categories of n cells, and a note for the column ``detail``."""

    category_n: np.ndarray
    detail: str


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
    if method == "scvi_kmeans":
        return _scvi_kmeans(source, k, config, settings)
    values_ng = fit_preparation(source, config.input).matrix.block()
    require_differences(values_ng, source.name)
    points = _components(values_ng, settings)
    detail = f"{points.shape[1]} PCs"
    if method == "kmeans":
        return Clustering(_kmeans(points, k, config.seed, settings), detail)
    category_n, resolution = _leiden(points, k, config.seed, settings)
    return Clustering(category_n, f"{detail}, resolution {resolution:.4g}")


def _components(values_ng: Block, settings: Baseline) -> np.ndarray:
    """Principal components of the dense values; they do not depend on the seed of a run."""
    dense = values_ng.toarray() if sp.issparse(values_ng) else np.asarray(values_ng)
    if settings.scale:
        sd_g = dense.std(axis=0)
        dense = (dense - dense.mean(axis=0)) / np.where(sd_g > 0, sd_g, 1.0)
    return principal_components(dense, settings.pcs, 0)


def _kmeans(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=settings.restarts, random_state=seed).fit_predict(points_np)


def _leiden(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> tuple[np.ndarray, float]:
    """Leiden clusters whose number is K or closest to it, and their resolution."""
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
        return resolve_clusters(clusters_at, k)


def resolve_clusters(clusters_at: Callable[[float], np.ndarray], k: int) -> tuple[np.ndarray, float]:
    """Find K clusters by bisection of the resolution; if their number jumps over K, search around the jump.

    The number of clusters is not monotonic in the resolution, so K may occur on either side.
    """
    tried: list[tuple[int, float, np.ndarray]] = []
    low, high, at = 0.0, 20.0, 1.0
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
        _kmeans(points, k, config.seed, settings), detail + ("" if counts else ", values rounded to counts")
    )
