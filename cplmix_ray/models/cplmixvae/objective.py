"""The objective of Marghi et al. 2021, Eq. 7, as a loss to minimise:

    sum_a (A-1) [ -E log p(x_a|s_a,c_a) + beta E KL(q(s_a|c_a,x_a) || p(s_a|c_a)) ]
  - sum_{a<b} [ H(c_a|x_a) + H(c_b|x_b) - lambda E d_sigma^2(c_a, c_b) ]

Every arm is in A-1 pairs, so its entropy carries the same factor as its reconstruction. The weights that the settings
add, of reconstruction, entropy and marginal entropy, are 1, 1 and 0 there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cplmix_ray.config import CouplingName


@dataclass(frozen=True)
class Weights:
    """What counts at a step, and how much.

    Attributes:
        coupling, lam: which coupling between the arms, and its weight.
        reconstruction: of -E log p(x|s,c) and beta times the state's KL; None where the encoders train alone.
        entropy: of H(c|x), which is maximised.
        marginal: of the entropy of the mean posterior, which is maximised.
        guess: of -log q of the guessed category.
    """

    coupling: CouplingName
    lam: float
    reconstruction: float | None
    beta: float
    entropy: float
    marginal: float
    guess: float = 0.0


@dataclass(frozen=True)
class Terms:
    """Terms of the arms held here, each of shape (A_local,), in nats averaged over the minibatch.

    Attributes:
        entropy: H(c|x).
        marginal_entropy: entropy of the minibatch's mean posterior, or how near it is to a prior.
        reconstruction: -E log p(x|s,c); None where the encoders train alone.
        kl_state: E KL(q(s|c,x) || p(s|c)); None likewise.
        guess: -E log q(guess|x); None where nothing is guessed.
    """

    entropy: Tensor
    marginal_entropy: Tensor
    reconstruction: Tensor | None = None
    kl_state: Tensor | None = None
    guess: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """The terms that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


def state_kl(mu_and: Tensor, log_var_and: Tensor) -> Tensor:
    """KL of a diagonal Gaussian from the standard normal prior p(s|c), summed over d; shape (A, n)."""
    return 0.5 * (mu_and.square() + log_var_and.exp() - 1.0 - log_var_and).sum(-1)


def categorical_entropy(log_q_ank: Tensor) -> Tensor:
    """H(c|x) in nats, shape (A, n)."""
    return -(log_q_ank.exp() * log_q_ank).sum(-1)


def marginal_entropy(
    log_q_ank: Tensor, log_prior_k: Tensor | None = None, average: Callable[[Tensor], Tensor] = lambda mean: mean
) -> Tensor:
    """Entropy in nats of the posterior's mean over the minibatch, (A,); log K where all categories are used alike.

    Args:
        log_q_ank: log-posteriors.
        log_prior_k: log of the abundances that are expected; with them it is log K - KL(mean posterior || prior), which
            is largest where categories are used as expected, and the entropy itself for a uniform prior.
        average: from a mean over the cells given to that over a minibatch of which they are a share.
    """
    q_ak = average(log_q_ank.exp().mean(dim=1))
    surprise_ak = q_ak.clamp_min(1e-20).log()
    if log_prior_k is not None:
        surprise_ak = surprise_ak - log_prior_k - math.log(len(log_prior_k))
    return -(q_ak * surprise_ak).sum(-1)


def arm_weight(n_arms: int) -> int:
    """Pairs that an arm is in, A-1; one arm alone is a plain mixture VAE and counts once."""
    return max(n_arms - 1, 1)


def loss_of(terms: Terms, n_arms: int, weights: Weights) -> Tensor:
    """Each arm's own part of the loss, shape (A_local,); the coupling is added to it."""
    own = -weights.entropy * terms.entropy - weights.marginal * terms.marginal_entropy
    if weights.reconstruction is not None and terms.reconstruction is not None and terms.kl_state is not None:
        own = own + weights.reconstruction * (terms.reconstruction + weights.beta * terms.kl_state)
    if terms.guess is not None:
        own = own + weights.guess * terms.guess
    return arm_weight(n_arms) * own
