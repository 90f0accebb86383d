"""Eq. 7 and its terms."""

from cplmix_ray.objective.terms import Terms, arm_weight, categorical_entropy, loss_of, state_kl

__all__ = ["Terms", "arm_weight", "categorical_entropy", "loss_of", "state_kl"]
