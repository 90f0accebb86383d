"""Bernoulli pixels."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cplmix_ray.distributions.likelihood import Likelihood, register_likelihood


class Bernoulli(Likelihood):
    """Each pixel in [0, 1] is the probability of an independent Bernoulli variable; the decoder gives its logit."""

    kinds = ("images",)

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        return -binary_cross_entropy_with_logits(out_ang, x_ang, reduction="none").sum(-1)

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        return torch.sigmoid(out_ang)


register_likelihood("bernoulli", Bernoulli())
