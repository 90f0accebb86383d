"""Agreement coupling: each arm's posterior is drawn towards the mean of the other arms' posteriors.

An arm sends q_a and gets S = sum_a q_a back; with m_a = (S - q_a) / (A - 1), the mean of the other arms, it minimises

    -(A - 1) E log <q_a, m_a>,

the log-probability that its category and another arm's, drawn independently, are the same. For two arms the gradients
of both are exactly those of -E log <q_1, q_2>. For more, every arm follows the mean of the others, held constant: this
is no sum over pairs, and not the gradient of one loss of all arms.
Unlike a distance between logarithms it favours posteriors near 0 and 1: <q_a, m_a> is largest at a corner of the
simplex. Its trivial solution, one category for all cells, is avoided by the weight of the marginal entropy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.couplings.coupling import Sent, register_coupling

_SMALLEST = 1e-8
"""Added before the logarithm, so that the loss of arms that agree on nothing is finite and has a gradient."""


@dataclass(frozen=True)
class AgreementCoupling:
    """Agreement of ``n_arms`` arms in all."""

    n_arms: int

    def send(self, log_q_ank: Tensor) -> Sent:
        """The posterior itself."""
        q_ank = log_q_ank.exp()
        return Sent(q_ank, q_ank.square().sum(-1).mean(-1), q_ank.new_zeros(q_ank.shape[0]))

    def surrogate(self, sent: Sent, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,): -(A-1) E log <q_a, mean of the others>, with the others held constant."""
        if self.n_arms == 1:
            return torch.zeros_like(sent.norm2_a)
        others_ank = (sum_nk - sent.u_ank).detach().clamp_min(0.0) / (self.n_arms - 1)
        agree_an = (sent.u_ank * others_ank).sum(-1)
        return -(self.n_arms - 1) * (agree_an + _SMALLEST).log().mean(-1)

    def share(self, surrogate_a: Tensor, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,): half, as every pair of arms is counted from both sides; for two arms -E log <q_1, q_2>."""
        return 0.5 * surrogate_a.detach()

    def pairwise(self, norm2_total: Tensor, sum_nk: Tensor) -> Tensor:
        """The chance that two arms, each drawing a category from its posterior, disagree, summed over pairs."""
        with torch.no_grad():
            agreeing = 0.5 * (sum_nk.square().sum(-1).mean() - norm2_total)
            return 0.5 * self.n_arms * (self.n_arms - 1) - agreeing


register_coupling("agreement", lambda n_arms, sigma_floor, shards: AgreementCoupling(n_arms))
