"""Couplings by squared distance between the arms' posteriors, in their one-sum form.

With u_a an embedding of arm a's posterior and S = sum_a u_a,

    sum_{a<b} ||u_a - u_b||^2 = A sum_a ||u_a||^2 - ||S||^2,        d/du_a = 2 (A u_a - S).

So an arm sends u_a whatever A is, and differentiates A ||u_a||^2 - 2 <u_a, S> with S held constant: the gradient is
that of the full pairwise sum. The couplings differ in the embedding:

    d_sigma    u = log q / sigma       Marghi et al. 2021, Eq. 7; sigma is each category's standard deviation
                                      over the minibatch
    aitchison  u = clr(log q)          the exact Aitchison distance d_A
    euclidean  u = q                   small probabilities hardly count

With v = log q_a - log q_b and g = u_a - u_b - v for d_sigma, max over the K categories and mean(g) their mean,

    (d_A - ||g - mean(g)||)^2 <= d_sigma^2 <= d_A^2 + K (max|v| + max|g|)^2.

This is Proposition 3 with absolute values; as printed, without them, it has counterexamples (tests/test_simplex.py).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.collectives.shards import WHOLE, Shards
from cplmix_ray.couplings.coupling import Sent, register_coupling
from cplmix_ray.couplings.simplex import clr, floored_std


@dataclass(frozen=True)
class SquaredDistance(ABC):
    """The one-sum form of a squared distance; subclasses define the embedding."""

    n_arms: int

    @abstractmethod
    def embed(self, log_q_ank: Tensor) -> tuple[Tensor, Tensor]:
        """u, shape (A_local, n, K), and how many categories of each arm are at the floor, (A_local,)."""

    def send(self, log_q_ank: Tensor) -> Sent:
        """What each arm sends, from its own posterior alone."""
        u_ank, floored_a = self.embed(log_q_ank)
        return Sent(u_ank, u_ank.square().sum(-1).mean(-1), floored_a)

    def surrogate(self, sent: Sent, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,); summed, its gradient is that of the pairwise sum, averaged over cells."""
        inner_a = (sent.u_ank * sum_nk.detach()).sum(-1).mean(-1)
        return self.n_arms * sent.norm2_a - 2.0 * inner_a

    def share(self, surrogate_a: Tensor, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,): parts that add up to the pairwise sum, no gradient."""
        return surrogate_a.detach() + sum_nk.square().sum(-1).mean() / self.n_arms

    def pairwise(self, norm2_total: Tensor, sum_nk: Tensor) -> Tensor:
        """The value sum_{a<b} E ||u_a - u_b||^2, from the totals over all arms; scalar, no gradient.

        It is a difference of large numbers, which rounding could make negative.
        """
        with torch.no_grad():
            return (self.n_arms * norm2_total - sum_nk.square().sum(-1).mean()).clamp_min(0.0)


@dataclass(frozen=True)
class DSigmaCoupling(SquaredDistance):
    """The published coupling, Eq. 7. The gradient flows through sigma, except at the floor."""

    sigma_floor: float
    shards: Shards = WHOLE

    def embed(self, log_q_ank: Tensor) -> tuple[Tensor, Tensor]:
        sigma_a1k, floored_a = floored_std(log_q_ank.exp(), self.sigma_floor, self.shards.average)
        return log_q_ank / sigma_a1k, floored_a


@dataclass(frozen=True)
class AitchisonCoupling(SquaredDistance):
    """The exact Aitchison distance ||clr(q_a) - clr(q_b)||^2 (Aitchison 1982)."""

    def embed(self, log_q_ank: Tensor) -> tuple[Tensor, Tensor]:
        return clr(log_q_ank), log_q_ank.new_zeros(log_q_ank.shape[0])


@dataclass(frozen=True)
class EuclideanCoupling(SquaredDistance):
    """The Euclidean distance between probabilities, ||q_a - q_b||^2."""

    def embed(self, log_q_ank: Tensor) -> tuple[Tensor, Tensor]:
        return log_q_ank.exp(), log_q_ank.new_zeros(log_q_ank.shape[0])


register_coupling("d_sigma", DSigmaCoupling)
register_coupling("aitchison", lambda n_arms, sigma_floor, shards: AitchisonCoupling(n_arms))
register_coupling("euclidean", lambda n_arms, sigma_floor, shards: EuclideanCoupling(n_arms))
