"""From expected expression to counts."""

import numpy as np


def expected_counts(log_rate_ng: np.ndarray, library_n: np.ndarray) -> np.ndarray:
    """Mean counts (n, g): a cell's library is shared out among its genes."""
    rate_ng = np.exp(log_rate_ng - log_rate_ng.max(axis=1, keepdims=True))
    rate_ng *= (library_n / rate_ng.sum(axis=1))[:, None]
    return rate_ng


def sample_counts(mean_ng: np.ndarray, dispersion: float, dropout: float, rng: np.random.Generator) -> np.ndarray:
    """Negative binomial counts, of which some drop out.

    Variance mu + phi mu^2, drawn as a Poisson of a gamma. A value drops out with probability m / (m + mu): at mu = m
    (``dropout``) half of them do.
    """
    shape = 1.0 / dispersion
    rate_ng = rng.standard_gamma(shape, mean_ng.shape) * (mean_ng / shape)
    counts_ng = rng.poisson(rate_ng).astype(np.int32)
    if dropout > 0:
        counts_ng *= rng.random(mean_ng.shape, dtype=np.float32) * (mean_ng + dropout) < mean_ng
    return counts_ng


def share_of_nonzero(mean_ng: np.ndarray, dispersion: float, dropout: float) -> float:
    """Expected share of values above zero: 1 - (1 + phi mu)^(-1/phi), and those that do not drop out."""
    detected_ng = -np.expm1(-np.log1p(dispersion * mean_ng) / dispersion)
    return float(np.mean(detected_ng * mean_ng / (mean_ng + dropout)))
