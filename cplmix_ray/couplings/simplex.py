"""Compositions in log-ratio coordinates, and their spread (Aitchison 1982; Marghi et al. 2021, section 3).

Points are given by their logarithms, which a log-softmax yields without underflow.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def clr(log_q_nk: Tensor) -> Tensor:
    """Centred log-ratio: log q_k minus the mean of log q over the K parts. Shape (..., K) in and out."""
    return log_q_nk - log_q_nk.mean(dim=-1, keepdim=True)


def centre(log_q_ank: Tensor) -> Tensor:
    """Aitchison mean of the arms' posteriors: the normalised geometric mean over the leading axis.

    It is the point with the least sum of squared Aitchison distances to the arms. Each probability is at least the
    arms' geometric mean, and at least the geometric mean of the centres without one arm. It is not the posterior
    q(c|x_1..x_A) of Propositions 1 and 2: see :func:`joint_posterior`.

    Args:
        log_q_ank: log-posteriors, shape (A, n, K).

    Returns:
        Probabilities, shape (n, K).
    """
    return torch.softmax(log_q_ank.mean(dim=0), dim=-1)


def joint_posterior(log_q_ank: Tensor, log_prior_k: Tensor) -> Tensor:
    """Posterior q(c|x_1..x_A) of the category that A copies share, if they are independent given the category.

    By Bayes' rule it is proportional to prod_a q(c|x_a) / p(c)^(A-1), a product of experts. Its accuracy rises with the
    number of copies (Marghi et al. 2021, Proposition 2), which does not hold for :func:`centre` with unequal priors:
    that counts the prior once, but the evidence of A copies as that of one. The copies of one cell are not independent,
    so the scores of this package use :func:`centre`.

    Args:
        log_q_ank: log-posteriors q(c|x_a), shape (A, n, K).
        log_prior_k: logarithm of the prior p(c) that they have in common, shape (K,).

    Returns:
        Probabilities, shape (n, K).
    """
    return torch.softmax(log_q_ank.sum(dim=0) - (len(log_q_ank) - 1) * log_prior_k, dim=-1)


def floored_std(
    q_nk: Tensor, floor: float, average: Callable[[Tensor], Tensor] = lambda mean: mean
) -> tuple[Tensor, Tensor]:
    """Minibatch standard deviation of each category, never below ``floor``.

    The standard deviation of a category that no cell of the minibatch uses is zero; without the floor its distance and
    gradient would be unbounded. The gradient flows through sigma, except at the floor.

    Args:
        q_nk: posteriors, shape (..., n, K).
        floor: smallest standard deviation.
        average: from the mean over the cells given to the mean over the whole minibatch, of which they may be a part.

    Returns:
        sigma of shape (..., 1, K), and how many categories are at the floor, shape (...).
    """
    mean_k = average(q_nk.mean(dim=-2, keepdim=True))
    var_k = average((q_nk - mean_k).square().mean(dim=-2, keepdim=True))
    low = var_k < floor * floor
    # The floor is applied before the square root, whose gradient at zero is infinite.
    return var_k.clamp_min(floor * floor).sqrt(), low.sum(dim=(-2, -1))
