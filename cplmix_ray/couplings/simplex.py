"""Distances between compositions (Aitchison 1982; Marghi et al. 2021, section 3 and Proposition 3).

Points are given by their logarithms, which a log-softmax yields without underflow.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def clr(log_q_nk: Tensor) -> Tensor:
    """Centred log-ratio: log q_k minus the mean of log q over the K parts. Shape (..., K) in and out."""
    return log_q_nk - log_q_nk.mean(dim=-1, keepdim=True)


def aitchison_distance(log_p_nk: Tensor, log_q_nk: Tensor) -> Tensor:
    """Exact Aitchison distance ||clr(p) - clr(q)||, shape (...)."""
    return torch.linalg.vector_norm(clr(log_p_nk) - clr(log_q_nk), dim=-1)


def centre(log_q_ank: Tensor) -> Tensor:
    """Aitchison mean of the arms' posteriors: the normalised geometric mean over the leading axis.

    It is the point with the least sum of squared Aitchison distances to the arms.

    Args:
        log_q_ank: log-posteriors, shape (A, n, K).

    Returns:
        Probabilities, shape (n, K).
    """
    return torch.softmax(log_q_ank.mean(dim=0), dim=-1)


def floored_std(
    q_nk: Tensor, floor: float, average: Callable[[Tensor], Tensor] = lambda mean: mean
) -> tuple[Tensor, Tensor]:
    """Minibatch standard deviation of each category, never below ``floor``.

    A category that no cell of the minibatch uses has no spread; without the floor its distance, and the gradient
    through it, would be without bound. The gradient flows through sigma except where the floor bites.

    Args:
        q_nk: posteriors, shape (..., n, K).
        floor: smallest standard deviation.
        average: from a mean over the cells given to that over a minibatch of which they are a share.

    Returns:
        sigma of shape (..., 1, K), and how many categories are on the floor, shape (...).
    """
    mean_k = average(q_nk.mean(dim=-2, keepdim=True))
    var_k = average((q_nk - mean_k).square().mean(dim=-2, keepdim=True))
    low = var_k < floor * floor
    # The root of the floored variance, not the floored root: the root has no finite slope at zero.
    return var_k.clamp_min(floor * floor).sqrt(), low.sum(dim=(-2, -1))


def d_sigma_squared(log_p_nk: Tensor, log_q_nk: Tensor, sigma_p_k: Tensor, sigma_q_k: Tensor) -> Tensor:
    """sum_k (log p_k / sigma_pk - log q_k / sigma_qk)^2, the distance in Eq. 7; shape (...)."""
    return (log_p_nk / sigma_p_k - log_q_nk / sigma_q_k).square().sum(dim=-1)
