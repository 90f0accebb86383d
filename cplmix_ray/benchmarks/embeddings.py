"""Coordinates of cells that other methods cluster: principal components, with or without Harmony, and scVI's."""

import logging
import warnings
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.benchmarks.entries import Baseline
from cplmix_ray.config import RunConfig
from cplmix_ray.data.covariates import encode_covariates, fit_covariates
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.neighbors.principal_components import principal_components, require_differences
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class Embedding:
    """Coordinates (n, p) of cells, and a note for the column ``detail``."""

    points_np: np.ndarray
    detail: str


def batches_of(source: Source, key: str | None) -> np.ndarray | None:
    """Codes (n,) of the batches; None without a key, or where all cells are of one batch.

    Raises:
        InputError: there is no such column, or it is none of batches.
    """
    obs = source.adata.obs
    found, _ = fit_covariates(obs, key, (), np.arange(source.n_cells), source.name)
    return encode_covariates(obs, found, source.name)[0][found[0].name] if found else None


def components(source: Source, config: RunConfig, settings: Baseline) -> Embedding:
    """Principal components of the prepared cells, whatever their batches; they do not depend on the seed of a run."""
    values_ng = fit_preparation(source, config.input).matrix.block()
    require_differences(values_ng, source.name)
    points_np = _components(values_ng, settings)
    return Embedding(points_np, f"{points_np.shape[1]} PCs")


def _components(values_ng: Block, settings: Baseline) -> np.ndarray:
    dense = values_ng.toarray() if sp.issparse(values_ng) else np.asarray(values_ng)
    if settings.scale:
        sd_g = dense.std(axis=0)
        dense = (dense - dense.mean(axis=0)) / np.where(sd_g > 0, sd_g, 1.0)
    return principal_components(dense, settings.pcs, 0)


def harmony(source: Source, config: RunConfig, settings: Baseline) -> Embedding:
    """The same principal components, corrected for the batch by Harmony (Korsunsky et al. 2019) with its defaults.

    Raises:
        InputError: the settings name no batches.
    """
    import harmonypy

    batch_n = batches_of(source, config.input.batch_key)
    if batch_n is None:
        raise InputError(
            f"Harmony needs cells of two batches or more in {source.name}; name their column of obs with "
            f"input.batch_key, or leave the entry out."
        )
    found, n = components(source, config, settings), source.n_cells
    corrected = harmonypy.run_harmony(
        found.points_np,
        pd.DataFrame({"batch": batch_n}),
        "batch",
        nclust=max(2, min(round(n / 30), 100)),  # the default, which is 0 for few cells
        random_state=config.seed,
        ncores=1,
        verbose=False,
    )
    points_np = np.ascontiguousarray(corrected.Z_corr, dtype=np.float32)
    return Embedding(points_np, f"{found.detail}, Harmony")


def scvi_latent(source: Source, config: RunConfig, settings: Baseline) -> Embedding:
    """Latent means of scVI with its defaults, on the same genes as other methods, with the batch if one is named."""
    if source.image_shape is not None:
        raise InputError(f"{source.name} holds images, which the method scvi_kmeans cannot take; leave the entry out.")
    names = fit_preparation(source, config.input).preparation.var_names
    matrix = source.matrix.choose(columns_of(source.var_names, names, source.name))
    counts = matrix.statistics.counts
    if matrix.statistics.limits[0] < 0:
        raise InputError(f"{source.name} holds negative values, which scVI cannot take; name raw counts with layer.")
    batch_n = batches_of(source, config.input.batch_key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scvi-tools and lightning warn of their own future
        import scvi

        logging.getLogger("lightning").setLevel(logging.ERROR)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        scvi.settings.seed, scvi.settings.verbosity = config.seed, logging.ERROR
        cells = anndata.AnnData(sp.csr_matrix(matrix.block()).rint().astype(np.float32))
        if batch_n is not None:
            cells.obs["batch"] = pd.Categorical(batch_n)
        scvi.model.SCVI.setup_anndata(cells, batch_key=None if batch_n is None else "batch")
        model = scvi.model.SCVI(cells)
        model.train(max_epochs=settings.epochs, accelerator="cpu", devices=1, enable_progress_bar=False, logger=False)
        points = model.get_latent_representation()
    detail = f"scvi {scvi.__version__}, {model.trainer.current_epoch} epochs"
    return Embedding(points, detail + ("" if counts else ", values rounded to counts"))
