"""Negative binomial counts, without and with extra zeros (Lopez et al. 2018, scVI, equations 1 to 6).

The mean is the cell's library size times a softmax over genes, so that the decoder does not model sequencing depth;
theta is the inverse dispersion: the variance is mu + mu^2 / theta.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cplmix_ray.distributions.likelihood import Likelihood, register_likelihood

_LOG_THETA_RANGE = (-12.0, 20.0)
"""Beyond, the distribution is a point mass at zero, or Poisson, to float32 precision."""
_STIRLING_FROM = 30.0


def log_rising_factorial(x: Tensor, theta: Tensor) -> Tensor:
    """log Gamma(x + theta) - log Gamma(theta) - x log theta, elementwise.

    For large theta the two log-gammas are huge and nearly equal, and float32 would leave noise; there the difference
    is taken within Stirling's series.
    """
    large = theta > _STIRLING_FROM
    # Each branch gets only arguments at which it is finite, so that neither puts NaN into the other's gradient.
    small_theta = torch.where(large, torch.ones_like(theta), theta)
    direct = torch.lgamma(x + small_theta) - torch.lgamma(small_theta) - x * small_theta.log()
    theta = torch.where(large, theta, torch.full_like(theta, _STIRLING_FROM))
    series = (x + theta - 0.5) * torch.log1p(x / theta) - x + _stirling_tail(x + theta) - _stirling_tail(theta)
    return torch.where(large, series, direct)


def _stirling_tail(y: Tensor) -> Tensor:
    """What Stirling's series adds to (y - 1/2) log y - y + log(2 pi)/2, to 1e-10 at y = 30."""
    inverse = 1.0 / y
    return inverse / 12.0 - inverse.pow(3) / 360.0


def nb_log_prob(x: Tensor, log_mu: Tensor, log_theta: Tensor) -> Tensor:
    """log NB(x; mu, theta), elementwise, from logarithms so that neither tail overflows.

    The log-gammas, the most expensive part, are computed for counts above zero alone; at zero they cancel.
    """
    log_theta = log_theta.clamp(*_LOG_THETA_RANGE)
    x, log_mu, log_theta, theta = torch.broadcast_tensors(x, log_mu, log_theta, log_theta.exp())
    log_ratio = torch.nn.functional.softplus(log_mu - log_theta)
    of_zero = -theta * log_ratio
    at = (x != 0).flatten().nonzero().squeeze(1)
    count = x.flatten()[at]
    rising = log_rising_factorial(count, theta.flatten()[at]) - torch.lgamma(count + 1)
    more = rising + count * (log_mu.flatten()[at] - log_ratio.flatten()[at])
    return of_zero.flatten().index_add(0, at, more).view_as(of_zero)


def zinb_log_prob(x: Tensor, log_mu: Tensor, log_theta: Tensor, zero_logit: Tensor) -> Tensor:
    """log of a mixture: zero with probability sigmoid(zero_logit), otherwise NB(x; mu, theta); elementwise."""
    nb = logsigmoid(-zero_logit) + nb_log_prob(x, log_mu, log_theta)
    return torch.where(x < 0.5, torch.logaddexp(logsigmoid(zero_logit), nb), nb)


def log_mean(x_ang: Tensor, logits_ang: Tensor) -> Tensor:
    """log of library size times softmax; a cell without counts is given a library of one."""
    library_an1 = x_ang.sum(-1, keepdim=True).clamp_min(1.0)
    return library_an1.log() + torch.log_softmax(logits_ang, dim=-1)


class NegativeBinomial(Likelihood):
    """Counts with a dispersion for each gene; the decoder gives the logits of the expression shares."""

    kinds, has_dispersion = ("counts",), True

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        assert log_theta_a1g is not None
        return nb_log_prob(x_ang, log_mean(x_ang, out_ang), log_theta_a1g).sum(-1)

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        return log_mean(x_ang, out_ang).exp()


class ZeroInflatedNegativeBinomial(Likelihood):
    """A negative binomial with the probability of an extra zero, the logit of which the decoder gives as well."""

    kinds, has_dispersion, heads = ("counts",), True, 2

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        assert log_theta_a1g is not None
        share_ang, zero_ang = out_ang.chunk(2, dim=-1)
        return zinb_log_prob(x_ang, log_mean(x_ang, share_ang), log_theta_a1g, zero_ang).sum(-1)

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        share_ang, zero_ang = out_ang.chunk(2, dim=-1)
        return log_mean(x_ang, share_ang).exp() * torch.sigmoid(-zero_ang)


register_likelihood("nb", NegativeBinomial())
register_likelihood("zinb", ZeroInflatedNegativeBinomial())
