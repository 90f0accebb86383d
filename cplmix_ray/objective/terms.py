"""The objective of Marghi et al. 2021, Eq. 7, as a loss to minimise:

    sum_a (A-1) [ -E log p(x_a|s_a,c_a) + beta E KL(q(s_a|c_a,x_a) || p(s_a|c_a)) ]
  - sum_{a<b} [ H(c_a|x_a) + H(c_b|x_b) - lambda E d_sigma^2(c_a, c_b) ]

Every arm is in A-1 pairs, so its entropy carries the same factor as its reconstruction.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """Terms of the arms held here, each of shape (A_local,), in nats averaged over the minibatch.

    Attributes:
        reconstruction: -E log p(x|s,c).
        kl_state: E KL(q(s|c,x) || p(s|c)).
        entropy: H(c|x).
    """

    reconstruction: Tensor
    kl_state: Tensor
    entropy: Tensor


def state_kl(mu_and: Tensor, log_var_and: Tensor) -> Tensor:
    """KL of a diagonal Gaussian from the standard normal prior p(s|c), summed over d; shape (A, n)."""
    return 0.5 * (mu_and.square() + log_var_and.exp() - 1.0 - log_var_and).sum(-1)


def categorical_entropy(log_q_ank: Tensor) -> Tensor:
    """H(c|x) in nats, shape (A, n)."""
    return -(log_q_ank.exp() * log_q_ank).sum(-1)


def arm_weight(n_arms: int) -> int:
    """Pairs that an arm is in, A-1; one arm alone is a plain mixture VAE and counts once."""
    return max(n_arms - 1, 1)


def loss_of(terms: Terms, n_arms: int, beta: float) -> Tensor:
    """Each arm's own part of the loss, shape (A_local,); the coupling is added to it."""
    return arm_weight(n_arms) * (terms.reconstruction + beta * terms.kl_state - terms.entropy)
