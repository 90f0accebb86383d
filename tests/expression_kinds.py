"""Matrices of one expression, as the tools that people use store it: counts, and what is made of them."""

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

N_TYPES = 3


def counts_of(n: int = 150, g: int = 60, depth: float = 150.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Poisson counts of three types whose cells differ in depth, shape (n, g); and the type of each cell.

    Args:
        depth: mean number of molecules of a cell.
    """
    rng = np.random.default_rng(seed)
    rate_kg = rng.gamma(0.5, 1.0, g) * np.where(rng.random((N_TYPES, g)) < 0.25, 6.0, 1.0)
    rate_kg *= depth / rate_kg.sum(axis=1, keepdims=True)
    type_n = np.arange(n) % N_TYPES
    return rng.poisson(rate_kg[type_n] * rng.uniform(0.4, 1.6, (n, 1))).astype(np.float64), type_n


def share(x_ng: np.ndarray, total: float = 1.0) -> np.ndarray:
    """Each cell in proportion to its sum."""
    sum_n1 = x_ng.sum(axis=1, keepdims=True)
    return x_ng * (total / np.where(sum_n1 > 0, sum_n1, 1.0))


def to_median(x_ng: np.ndarray) -> np.ndarray:
    return share(x_ng, float(np.median(x_ng.sum(axis=1))))


def log1p_10k(x_ng: np.ndarray) -> np.ndarray:
    return np.log1p(share(x_ng, 1e4))


def variable(x_ng: np.ndarray, part: float = 0.5) -> np.ndarray:
    """The genes that vary most, as when a file was subset to them."""
    spread_g = log1p_10k(np.abs(x_ng)).std(axis=0)
    return x_ng[:, np.sort(np.argsort(-spread_g)[: max(1, int(part * x_ng.shape[1]))])]


def variable_of(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """``make`` on all genes, of which the variable ones are then kept."""

    def made(x_ng: np.ndarray) -> np.ndarray:
        spread_g = log1p_10k(x_ng).std(axis=0)
        return make(x_ng)[:, np.sort(np.argsort(-spread_g)[: max(1, x_ng.shape[1] // 2)])]

    return made


def z_scores(x_ng: np.ndarray, clip: float = np.inf) -> np.ndarray:
    spread_g = x_ng.std(axis=0, ddof=1)
    return ((x_ng - x_ng.mean(axis=0)) / np.where(spread_g > 0, spread_g, 1.0)).clip(-np.inf, clip)


def pearson_residuals(x_ng: np.ndarray) -> np.ndarray:
    """Analytic Pearson residuals (Lause et al. 2021)."""
    mu_ng = np.maximum(x_ng.sum(1, keepdims=True) * x_ng.sum(0, keepdims=True) / x_ng.sum(), 1e-12)
    return ((x_ng - mu_ng) / np.sqrt(mu_ng + mu_ng**2 / 100)).clip(-np.sqrt(len(x_ng)), np.sqrt(len(x_ng)))


def regressed_out(x_ng: np.ndarray) -> np.ndarray:
    """Log-expression without what the depth of a cell explains linearly."""
    depth_n2 = np.stack([np.ones(len(x_ng)), x_ng.sum(axis=1)], axis=1)
    y_ng = log1p_10k(x_ng)
    return y_ng - depth_n2 @ np.linalg.lstsq(depth_n2, y_ng, rcond=None)[0]


def corrected(x_ng: np.ndarray, ambient: float = 0.05) -> np.ndarray:
    """Counts minus what is expected of ambient RNA, never below zero."""
    profile_g = x_ng.sum(axis=0) / x_ng.sum()
    return np.maximum(x_ng - ambient * x_ng.sum(axis=1, keepdims=True) * profile_g, 0.0)


def rpkm(x_ng: np.ndarray) -> np.ndarray:
    """Expression in proportion to the length of the genes."""
    length_g = np.random.default_rng(1).uniform(0.5, 8.0, x_ng.shape[1])
    return share(x_ng, 1e6) / length_g


def tpm(x_ng: np.ndarray) -> np.ndarray:
    return share(rpkm(x_ng), 1e6)


def centred_log_ratio(x_ng: np.ndarray) -> np.ndarray:
    y_ng = np.log1p(x_ng)
    return y_ng - y_ng.mean(axis=1, keepdims=True)


def quantile_normalised(x_ng: np.ndarray) -> np.ndarray:
    """Log-expression of which every cell has the same values, in another order."""
    y_ng = log1p_10k(x_ng)
    return np.sort(y_ng, axis=1).mean(axis=0)[y_ng.argsort(axis=1).argsort(axis=1)]


def batch_corrected(x_ng: np.ndarray) -> np.ndarray:
    """Log-expression to which each batch of cells and gene adds its own constant, so that a few values are negative."""
    shift_bg = np.random.default_rng(2).normal(0, 0.05, (2, x_ng.shape[1]))
    return log1p_10k(x_ng) + shift_bg[np.arange(len(x_ng)) % 2]


KINDS: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "counts": {
        "counts": lambda x: x,
        "counts of variable genes": variable,
        "binary": lambda x: (x > 0).astype(float),
        "downsampled to one depth": lambda x: np.round(to_median(x)),
    },
    "linear_expression": {
        "10k": lambda x: share(x, 1e4),
        "10k of variable genes": variable_of(lambda x: share(x, 1e4)),
        "median": to_median,
        "median of variable genes": variable_of(to_median),
        "CPM": lambda x: share(x, 1e6),
        "TPM": tpm,
        "TPM of variable genes": variable_of(tpm),
        "RPKM": rpkm,
        "percentages": lambda x: share(x, 100.0),
        "percentages of variable genes": variable_of(lambda x: share(x, 100.0)),
        "ambient-corrected": corrected,
        "counts with rounding errors": lambda x: x * (1 + 1e-6),
    },
    "proportions": {
        "proportions": share,
        "proportions of variable genes": variable_of(share),
        "proportions by length": lambda x: share(rpkm(x)),
        "proportions by length of variable genes": variable_of(lambda x: share(rpkm(x))),
    },
    "log_expression": {
        "log1p 10k": log1p_10k,
        "log1p 10k of variable genes": variable_of(log1p_10k),
        "log1p CPM": lambda x: np.log1p(share(x, 1e6)),
        "log1p median": lambda x: np.log1p(to_median(x)),
        "log1p median of variable genes": variable_of(lambda x: np.log1p(to_median(x))),
        "log1p TPM": lambda x: np.log1p(tpm(x)),
        "log1p TPM of variable genes": variable_of(lambda x: np.log1p(tpm(x))),
        "log1p RPKM": lambda x: np.log1p(rpkm(x)),
        "log2 CPM": lambda x: np.log2(1 + share(x, 1e6)),
        "log2 TPM of variable genes": variable_of(lambda x: np.log2(1 + tpm(x))),
        "log10 10k": lambda x: np.log10(1 + share(x, 1e4)),
        "log2 counts": lambda x: np.log2(1 + x),
        "log1p counts": np.log1p,
        "two decimals": lambda x: np.round(log1p_10k(x), 2),
        "three decimals": lambda x: np.round(log1p_10k(x), 3),
        "log1p of corrected counts": lambda x: log1p_10k(corrected(x)),
        "centred log ratio": centred_log_ratio,
        "log CPM with a small constant": lambda x: np.log(share(x, 1e6) + 0.01),
        "batch-corrected": batch_corrected,
        "quantile-normalised": quantile_normalised,
        "log1p CLR of Seurat": lambda x: np.log1p(x / np.exp(np.log1p(x).mean(axis=1, keepdims=True))),
    },
    "scaled": {
        "z": lambda x: z_scores(log1p_10k(x)),
        "z clipped": lambda x: z_scores(log1p_10k(x), 10.0),
        "z of variable genes": variable_of(lambda x: z_scores(log1p_10k(x), 10.0)),
        "z after regressing out": lambda x: z_scores(regressed_out(x), 10.0),
        "not centred": lambda x: log1p_10k(x) / np.maximum(log1p_10k(x).std(axis=0, ddof=1), 1e-9),
    },
    "residuals": {
        "Pearson": pearson_residuals,
        "Pearson of variable genes": variable_of(pearson_residuals),
        "regressed out": regressed_out,
    },
}
"""Kind -> name -> what makes it of counts."""


def stored(x_ng: np.ndarray, sparse: bool | None = None) -> np.ndarray | sp.csr_matrix:
    """As float32, sparse where no value is negative and most are zero."""
    x_ng = x_ng.astype(np.float32)
    sparse = bool((x_ng >= 0).all() and (x_ng == 0).mean() > 0.3) if sparse is None else sparse
    return sp.csr_matrix(x_ng) if sparse else x_ng
