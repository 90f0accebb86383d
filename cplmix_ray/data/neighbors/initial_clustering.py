"""The initial clustering: k-means partitions of the cells on several views of them, or mixtures on one view.

A view is principal components under a normalisation. log: log-expression, where strongly expressed genes count most.
scaled: every gene in units of its own standard deviation, where rare genes count as much as others. residuals: analytic
Pearson residuals (Lause et al. 2021), where a gene counts for what it varies beyond the sampling of molecules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

from cplmix_ray.clustering.kmeans_ensemble import build_ensemble
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.neighbors.covariate_effects import effects_of, without_effects
from cplmix_ray.data.neighbors.mixtures import Start, mixture_categories
from cplmix_ray.data.neighbors.shares import halves_of_cells
from cplmix_ray.data.preprocessing.fit import Fitted
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError

_COMPONENTS = 50
_FIT, _BLOCK = 20_000, 5_000
"""Cells from which components are found, and cells transformed at once: a view of all cells is never held whole."""
_CLIP, _THETA = 10.0, 100.0
"""Largest absolute value of a scaled gene, and theta of the variance mu + mu^2 / theta of Pearson residuals."""


@dataclass(frozen=True)
class InitialClustering:
    """Initial categories of the training cells, and the space in which their neighbors are found.

    Attributes:
        points_np: coordinates of the cells, (n, p).
        votes_nm: categories 0..K-1 of each cell, (n, m): one, or one from the whole cell and one from each arm's share.
        n_categories: K.
    """

    points_np: np.ndarray
    votes_nm: np.ndarray
    n_categories: int


def cluster_by_ensemble(
    fitted: Fitted,
    source: Source,
    train_idx: np.ndarray,
    design_nv: np.ndarray,
    batch_n: np.ndarray | None,
    n_categories: int,
    seed: int,
) -> InitialClustering:
    """An ensemble of k-means partitions of the training cells on the genes that the arms see.

    Args:
        design_nv: columns of the covariates of the training cells, whose effects are removed.
        batch_n: not used: the effects of batches are among those of the covariates.

    Raises:
        InputError: they are images.
    """
    at, log_ng = _chosen_genes(fitted, source, train_idx)
    views = views_of(log_ng, _linear(fitted, source, log_ng, at, train_idx), design_nv, seed)
    ensemble = build_ensemble(views, n_categories, seed)
    return InitialClustering(ensemble.points_nk, ensemble.guess_n[:, None], n_categories)


def cluster_by_mixtures(
    fitted: Fitted,
    source: Source,
    train_idx: np.ndarray,
    design_nv: np.ndarray,
    batch_n: np.ndarray | None,
    n_categories: int | None,
    n_arms: int,
    start: Start,
    seed: int,
) -> InitialClustering:
    """Mixtures on scaled genes of the training cells and, with several arms, on each arm's share of them.

    Args:
        design_nv: columns of the covariates of the training cells, whose effects are removed.
        batch_n: batch of each training cell, within which types are told apart; None without batches.
        n_categories: K; None finds it.

    Raises:
        InputError: they are images.
    """
    at, log_ng = _chosen_genes(fitted, source, train_idx)
    preparation, counts_ng = fitted.preparation, None
    if preparation.kind == "counts" or (preparation.target_sum is not None and source.matrix.statistics.counts):
        counts_ng = source.matrix.choose(at).take(train_idx).block()
    shares = halves_of_cells(log_ng, counts_ng, n_arms if n_arms > 1 else 0, seed)
    found = mixture_categories(
        [scaled_components(each_ng, design_nv, seed) for each_ng in (log_ng, *shares)],
        n_categories,
        start,
        seed,
        design_nv,
        batch_n,
    )
    return InitialClustering(found.points_np, found.votes_nm, found.n_categories)


def _chosen_genes(fitted: Fitted, source: Source, train_idx: np.ndarray) -> tuple[np.ndarray, Block]:
    """Columns of the genes that the arms see, and their log-expression."""
    if fitted.preparation.kind == "images":
        raise InputError("--neighbour-space clustering and --align-guess are for cells; leave them out for images.")
    at = source.var_names.get_indexer(list(fitted.preparation.var_names))
    return at, fitted.log_matrix.choose(at).take(train_idx).block()


def _linear(fitted: Fitted, source: Source, log_ng: Block, at: np.ndarray, train_idx: np.ndarray) -> Block | None:
    """Expression proportional to counts: as it was read where it was normalised here, else undoing the logarithm."""
    if fitted.preparation.kind == "counts" or fitted.preparation.target_sum is not None:
        return source.matrix.choose(at).take(train_idx).block()
    smallest, largest = float(log_ng.min()), float(log_ng.max())
    if smallest < 0 or largest > 30:
        return None
    # log_b(1 + x) times log(b) is log1p(x).
    return np.expm1(log_ng * np.float32(np.log(fitted.preparation.log_base or np.e)))


def views_of(log_ng: Block, linear_ng: Block | None, design_nv: np.ndarray, seed: int) -> list[np.ndarray]:
    """Principal components of each view, each (n, p) float32.

    Args:
        log_ng: log-expression (or pixels) of the chosen genes, dense or CSR.
        linear_ng: counts, or expression that is proportional to counts, of the same genes; None leaves residuals out.
        design_nv: columns of the covariates, whose effects are removed from every view.
    """
    fit = _fitted_cells(log_ng, seed)
    views = [_components(log_ng, lambda x_ng: x_ng, design_nv, fit, seed), scaled_components(log_ng, design_nv, seed)]
    if linear_ng is not None:
        share_g = np.asarray(linear_ng.sum(axis=0), dtype=np.float64).ravel()
        share_g /= share_g.sum() or 1.0
        residuals = partial(pearson_residuals, share_g=share_g, n_cells=len(fit))
        views.append(_components(linear_ng, residuals, design_nv, fit, seed))
    return views


def scaled_components(log_ng: Block, design_nv: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of genes in units of their standard deviation, (n, p) float32.

    Args:
        design_nv: columns of the covariates, whose effects are removed from the genes before.
    """
    fit = _fitted_cells(log_ng, seed)
    sample_ng = _dense(log_ng, fit)
    mean_g = sample_ng.mean(axis=0)
    spread_g = without_effects(sample_ng, design_nv[fit]).std(axis=0) + 1e-6
    return _components(log_ng, lambda x_ng: (x_ng - mean_g) / spread_g, design_nv, fit, seed, _CLIP)


def _fitted_cells(values_ng: Block, seed: int) -> np.ndarray:
    """Cells from which components are found, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(values_ng.shape[0])[:_FIT])


def pearson_residuals(x_ng: np.ndarray, share_g: np.ndarray, n_cells: int) -> np.ndarray:
    """(x - mu) / sqrt(mu + mu^2 / theta) with mu the cell's library times the gene's share, clipped at sqrt(n)."""
    mu_ng = np.maximum(x_ng.sum(axis=1, keepdims=True) * share_g, 1e-12)
    bound = np.sqrt(n_cells)
    return ((x_ng - mu_ng) / np.sqrt(mu_ng + mu_ng**2 / _THETA)).clip(-bound, bound).astype(np.float32)


def _components(
    values_ng: Block,
    view: Callable[[np.ndarray], np.ndarray],
    design_nv: np.ndarray,
    fit: np.ndarray,
    seed: int,
    largest: float = np.inf,
) -> np.ndarray:
    """Principal component scores (n, p) of all cells, by a PCA of the cells ``fit``; zeros if those are all equal.

    Args:
        largest: values are clipped at it once the effects of the covariates are removed.
    """
    n, g = values_ng.shape
    room = min(_COMPONENTS, min(len(fit), g) - 1)
    if room < 1:
        return np.zeros((n, 1), np.float32)
    viewed_ng = view(_dense(values_ng, fit))
    effect_vg = effects_of(viewed_ng, design_nv[fit])
    sample_ng = (viewed_ng - design_nv[fit] @ effect_vg).clip(-largest, largest)
    if not np.ptp(sample_ng, axis=0).any():
        return np.zeros((n, room), np.float32)
    pca = PCA(room, svd_solver="covariance_eigh" if g <= 4000 else "randomized", random_state=seed)
    pca.fit(sample_ng)
    blocks = []
    for part in (np.arange(at, min(at + _BLOCK, n)) for at in range(0, n, _BLOCK)):
        part_ng = view(_dense(values_ng, part)) - design_nv[part] @ effect_vg
        blocks.append(pca.transform(part_ng.clip(-largest, largest)))
    return np.concatenate(blocks).astype(np.float32)


def _dense(values_ng: Block, idx_n: np.ndarray) -> np.ndarray:
    rows = values_ng[idx_n]
    return (rows.toarray() if sp.issparse(rows) else np.asarray(rows)).astype(np.float32)
