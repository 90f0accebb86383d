"""Eq. 7, its terms and their weights."""

from cplmix_ray.objective.terms import (
    Terms,
    Weights,
    arm_weight,
    categorical_entropy,
    loss_of,
    marginal_entropy,
    state_kl,
)

__all__ = ["Terms", "Weights", "arm_weight", "categorical_entropy", "loss_of", "marginal_entropy", "state_kl"]
