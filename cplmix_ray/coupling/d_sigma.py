"""The published coupling: pairwise d_sigma between the arms' categorical posteriors, in its one-sum form.

With u_a = log q_a / sigma_a and S = sum_a u_a,

    sum_{a<b} ||u_a - u_b||^2 = A sum_a ||u_a||^2 - ||S||^2,        d/du_a = 2 (A u_a - S).

So an arm sends one (n, K) tensor whatever A is, and differentiates A ||u_a||^2 - 2 <u_a, S> with S held constant: the
gradient is that of the full pairwise sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.simplex import floored_std


@dataclass(frozen=True)
class Sent:
    """What the arms on this worker send.

    Attributes:
        u_ank: log q / sigma, shape (A_local, n, K), with its graph.
        norm2_a: ||u_a||^2 averaged over cells, shape (A_local,).
        floored_a: categories of each arm whose sigma is on the floor, shape (A_local,).
    """

    u_ank: Tensor
    norm2_a: Tensor
    floored_a: Tensor


@dataclass(frozen=True)
class DSigmaCoupling:
    """Strategy of Eq. 7 for ``n_arms`` arms in all. Transport: one (n, K) tensor and one scalar an arm and step."""

    n_arms: int
    sigma_floor: float

    def send(self, log_q_ank: Tensor) -> Sent:
        """What each arm needs to say, from its own posterior alone."""
        sigma_a1k, floored_a = floored_std(log_q_ank.exp(), self.sigma_floor)
        u_ank = log_q_ank / sigma_a1k
        return Sent(u_ank, u_ank.square().sum(-1).mean(-1), floored_a)

    def surrogate(self, sent: Sent, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,); summed, its gradient is that of the pairwise sum, averaged over cells."""
        inner_a = (sent.u_ank * sum_nk.detach()).sum(-1).mean(-1)
        return self.n_arms * sent.norm2_a - 2.0 * inner_a

    def pairwise(self, norm2_total: Tensor, sum_nk: Tensor) -> Tensor:
        """The value sum_{a<b} E d_sigma^2, from the totals over all arms; scalar, no gradient.

        It is a difference of large numbers, so that close to zero float32 may leave less than nothing.
        """
        with torch.no_grad():
            return (self.n_arms * norm2_total - sum_nk.square().sum(-1).mean()).clamp_min(0.0)
