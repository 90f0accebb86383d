"""Gaussian log-expression."""

import math

from torch import Tensor

from cplmix_ray.distributions.likelihood import Likelihood, register_likelihood

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Gaussian(Likelihood):
    """Each gene is Gaussian with unit variance around the decoder's output."""

    kinds = ("images", "log")
    squared_error_offset = _HALF_LOG_2PI

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        return -0.5 * (x_ang - out_ang).square().sum(-1) - x_ang.shape[-1] * _HALF_LOG_2PI

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        return out_ang


register_likelihood("gaussian", Gaussian())
