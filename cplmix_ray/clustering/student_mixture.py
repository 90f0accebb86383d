"""Mixtures of multivariate Student-t distributions (Peel and McLachlan 2000) whose covariances are shrunk.

Every category has a mean and a covariance matrix, so that what varies within a type does not count as a difference
between types. The covariance is estimated from the cells of the category and, with the weight of ``shrinkage`` cells,
from those of all categories around their means; with infinite shrinkage all categories share one covariance. A
distribution with heavy tails gives less weight to cells that fit no category.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

DEGREES_OF_FREEDOM = 10.0
"""Heavier tails than those of a Gaussian; between 5 and 20 the categories hardly differed."""
_SMALLEST_VARIANCE = 1e-3
"""Added to all variances of points whose overall standard deviation is 1."""
_TOLERANCE = 1e-4
"""EM ends if the mean log-likelihood of a cell increases by less than this, in nats."""


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture of K components in p dimensions, with the posterior of the points that it was fitted to.

    Attributes:
        log_weight_k: log of the weights of the components, (K,).
        mean_kp: means, (K, p).
        whiten_kpp: inverse Cholesky factors of the scale matrices, (K, p, p) or, if they share one, (1, p, p).
        log_likelihood: mean log-likelihood of a point in nats.
        q_nk: posterior of the components of each point, (n, K).
    """

    log_weight_k: np.ndarray
    mean_kp: np.ndarray
    whiten_kpp: np.ndarray
    log_likelihood: float
    q_nk: np.ndarray

    def posterior(self, points_np: np.ndarray) -> np.ndarray:
        """Posterior probability of each component for any points, shape (n, K)."""
        log_nk, _ = _log_joint(points_np, self.log_weight_k, self.mean_kp, self.whiten_kpp)
        return np.exp(log_nk - logsumexp(log_nk, axis=1, keepdims=True))


# Products of small single-precision matrices sometimes set the flag of an invalid value although all are finite: BLAS
# computes with what lies behind the matrix too. A value that is not finite would make the Cholesky factors fail.
@np.errstate(invalid="ignore")
def fit_mixture(points_np: np.ndarray, start_nk: np.ndarray, shrinkage: float, max_iterations: int = 150) -> Mixture:
    """Maximum likelihood by expectation maximisation.

    Args:
        points_np: points whose overall standard deviation is about 1, (n, p).
        start_nk: initial posterior of the components, (n, K); rows sum to 1.
        shrinkage: number of cells with whose weight the common covariance enters that of every component; may be
            infinite.
        max_iterations: EM ends after so many, converged or not.
    """
    n = len(points_np)
    q_nk, precision_nk, before = start_nk.astype(points_np.dtype), np.ones_like(start_nk), -np.inf
    for _ in range(max_iterations):
        log_weight_k = np.log((q_nk.sum(axis=0) + 1.0) / (n + q_nk.shape[1]))
        mean_kp, scatter_kpp = moments(points_np, q_nk * precision_nk, pooled=np.isinf(shrinkage))
        scale_kpp = scale_matrices(scatter_kpp, q_nk.sum(axis=0), n, shrinkage)
        whiten_kpp = np.linalg.inv(np.linalg.cholesky(scale_kpp))
        log_nk, precision_nk = _log_joint(points_np, log_weight_k, mean_kp, whiten_kpp)
        total_n1 = logsumexp(log_nk, axis=1, keepdims=True)
        q_nk, now = np.exp(log_nk - total_n1), float(total_n1.mean())
        if now - before < _TOLERANCE:
            break
        before = now
    return Mixture(log_weight_k, mean_kp, whiten_kpp, now, q_nk)


def moments(points_np: np.ndarray, weight_nk: np.ndarray, pooled: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means (K, p) and scatter matrices around them, (K, p, p), or their sum (1, p, p) if ``pooled``."""
    weight_k1 = weight_nk.sum(axis=0)[:, None] + 1e-6
    mean_kp = (weight_nk.T @ points_np) / weight_k1
    if pooled:
        within_pp = (points_np * weight_nk.sum(axis=1, keepdims=True)).T @ points_np
        return mean_kp, (within_pp - (mean_kp * weight_k1).T @ mean_kp)[None]
    scatter_kpp = np.empty((len(mean_kp), *2 * mean_kp.shape[1:]), points_np.dtype)
    for k, mean_p in enumerate(mean_kp):
        centred_np = points_np - mean_p
        scatter_kpp[k] = (centred_np * weight_nk[:, k : k + 1]).T @ centred_np
    return mean_kp, scatter_kpp


def scale_matrices(scatter_kpp: np.ndarray, cells_k: np.ndarray, n: int, shrinkage: float) -> np.ndarray:
    """Shrink the covariance of each component towards the covariance within all of them.

    Returns:
        Scale matrices of the t distributions, (K, p, p), or (1, p, p) for infinite shrinkage.
    """
    common_1pp = scatter_kpp.sum(axis=0, keepdims=True) / n
    common_1pp += _SMALLEST_VARIANCE * np.eye(common_1pp.shape[-1], dtype=common_1pp.dtype)
    if np.isinf(shrinkage):
        return common_1pp
    return (scatter_kpp + shrinkage * common_1pp) / (cells_k + shrinkage)[:, None, None]


def _log_joint(
    points_np: np.ndarray, log_weight_k: np.ndarray, mean_kp: np.ndarray, whiten_kpp: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """E step: log p(x, c), and the weight of each point in the M step, small for outliers; each (n, K)."""
    p, dof = points_np.shape[1], DEGREES_OF_FREEDOM
    if len(whiten_kpp) == 1:
        white_np, centre_kp = points_np @ whiten_kpp[0].T, mean_kp @ whiten_kpp[0].T
        d2_nk = (white_np**2).sum(axis=1, keepdims=True) + (centre_kp**2).sum(axis=1) - 2 * white_np @ centre_kp.T
        d2_nk = np.maximum(d2_nk, 0)
    else:
        d2_nk = np.empty((len(points_np), len(mean_kp)), points_np.dtype)
        for k, (mean_p, whiten_pp) in enumerate(zip(mean_kp, whiten_kpp, strict=True)):
            d2_nk[:, k] = (((points_np - mean_p) @ whiten_pp.T) ** 2).sum(axis=1)
    log_det_k = np.log(np.diagonal(whiten_kpp, axis1=1, axis2=2)).sum(axis=1)
    constant = gammaln((dof + p) / 2) - gammaln(dof / 2) - 0.5 * p * np.log(dof * np.pi)
    log_nk = log_weight_k + log_det_k + constant - 0.5 * (dof + p) * np.log1p(d2_nk / dof)
    return log_nk.astype(points_np.dtype), (dof + p) / (dof + d2_nk)
