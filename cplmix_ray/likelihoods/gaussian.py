"""Gaussian log-expression."""

import math

from torch import Tensor


class Gaussian:
    """Each gene is Gaussian with unit variance around the decoder's output."""

    heads, has_dispersion, counts = 1, False, False

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        return -0.5 * (x_ang - out_ang).square().sum(-1) - 0.5 * x_ang.shape[-1] * math.log(2 * math.pi)

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        return out_ang
