"""Gaussian log-expression."""

import math

from torch import Tensor

_LOG_PRECISION_RANGE = (-8.0, 8.0)
"""Standard deviations between e^-4 and e^4: a gene that never varies would otherwise earn nats without end."""


class Gaussian:
    """Each gene is Gaussian around the decoder's output, with a variance of its own that is learned.

    With one fixed variance the objective would hang on the unit of the data: shallow cells scaled to their own depth
    vary by a few hundredths, and their reconstruction would weigh nothing beside the coupling.
    """

    heads, has_dispersion, counts = 1, True, False

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        if log_theta_a1g is None:
            log_theta_a1g = x_ang.new_zeros(())
        log_precision = log_theta_a1g.clamp(*_LOG_PRECISION_RANGE)
        scaled = (x_ang - out_ang).square() * log_precision.exp()
        return 0.5 * (log_precision - scaled - math.log(2 * math.pi)).sum(-1)

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        return out_ang
