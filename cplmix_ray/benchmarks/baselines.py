"""What cplmix is compared with: k-means and Leiden on principal components, k-means on the latent space of scVI."""

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
from cplmix_ray.config import Config
from cplmix_ray.data.neighbors.principal_components import principal_components, require_differences
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import holds_counts
from cplmix_ray.data.source import Source, Values
from cplmix_ray.utils.errors import InputError

_NEEDS = {"leiden": ("scanpy", "igraph"), "scvi_kmeans": ("scvi",)}
_REMEDY = {"leiden": "pip install 'cplmix_ray[bench]'", "scvi_kmeans": "pip install scvi-tools"}


@dataclass(frozen=True)
class Clusters:
    """Categories that a method gives n cells, and what the reader of a row should know of how."""

    category_n: np.ndarray
    detail: str


def require_method(method: str) -> None:
    """Refuse a method whose packages are not there, before anything starts.

    Raises:
        InputError: one is missing.
    """
    missing = [name for name in _NEEDS.get(method, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"The method {method} needs {missing[0]}; install it with: {_REMEDY[method]}.")


def find_clusters(method: str, source: Source, k: int, config: Config, settings: Baseline) -> Clusters:
    """Cluster cells prepared by the input section of ``config``, with its seed.

    Raises:
        InputError: the cells do not fit the method, or a package is missing.
    """
    require_method(method)
    if method == "scvi_kmeans":
        return _scvi_kmeans(source, k, config, settings)
    values_ng = fit_preparation(source, config).values_ng
    require_differences(values_ng, source.name)
    points = _components(values_ng, settings)
    detail = f"{points.shape[1]} PCs"
    if method == "kmeans":
        return Clusters(_kmeans(points, k, config.seed, settings), detail)
    category_n, resolution = _leiden(points, k, config.seed, settings)
    return Clusters(category_n, f"{detail}, resolution {resolution:.4g}")


def _components(values_ng: Values, settings: Baseline) -> np.ndarray:
    """Principal components of the dense values, the same whatever the seed."""
    dense = values_ng.toarray() if sp.issparse(values_ng) else np.asarray(values_ng)
    if settings.scale:
        sd_g = dense.std(axis=0)
        dense = (dense - dense.mean(axis=0)) / np.where(sd_g > 0, sd_g, 1.0)
    return principal_components(dense, settings.pcs, 0)


def _kmeans(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> np.ndarray:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=settings.restarts, random_state=seed).fit_predict(points_np)


def _leiden(points_np: np.ndarray, k: int, seed: int, settings: Baseline) -> tuple[np.ndarray, float]:
    """Leiden at the resolution whose number of clusters is K or comes closest to it, and that resolution."""
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
    """Find K clusters by bisection of the resolution; where their number jumps over K, look around the jump.

    More resolution does not always mean more clusters, so K may be found at either side.
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


def _scvi_kmeans(source: Source, k: int, config: Config, settings: Baseline) -> Clusters:
    """k-means on the latent means of scVI with its defaults, on the genes that the other methods see."""
    if source.image_shape is not None:
        raise InputError(f"{source.name} holds images, which the method scvi_kmeans cannot take; leave the entry out.")
    names = fit_preparation(source, config).preparation.var_names
    values_ng = source.values_ng[:, columns_of(source.adata.var_names, names, source.name)]
    counts = holds_counts(values_ng)
    if values_ng.min() < 0:
        raise InputError(f"{source.name} holds negative values, which scVI cannot take; name raw counts with layer.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scvi-tools and lightning warn of their own future
        import scvi

        logging.getLogger("lightning").setLevel(logging.ERROR)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        scvi.settings.seed, scvi.settings.verbosity = config.seed, logging.ERROR
        cells = anndata.AnnData(sp.csr_matrix(values_ng).rint().astype(np.float32))
        scvi.model.SCVI.setup_anndata(cells)
        model = scvi.model.SCVI(cells)
        model.train(max_epochs=settings.epochs, accelerator="cpu", devices=1, enable_progress_bar=False, logger=False)
        points = model.get_latent_representation()
    detail = f"scvi {scvi.__version__}, {model.trainer.current_epoch} epochs"
    return Clusters(
        _kmeans(points, k, config.seed, settings), detail + ("" if counts else ", values rounded to counts")
    )
