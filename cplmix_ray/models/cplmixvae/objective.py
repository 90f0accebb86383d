"""The objective of Marghi et al. (2021), Eq. 7, as a loss to minimise, and its weights at each step:

    sum_a (A-1) [ -E log p(x_a|s_a,c_a) + beta E KL(q(s_a|c_a,x_a) || p(s_a|c_a)) ]
  - sum_{a<b} [ H(c_a|x_a) + H(c_b|x_b) - lambda E d_sigma^2(c_a, c_b) ]

Every arm is in A-1 pairs, so its entropy has the same factor as its reconstruction. The settings add weights of the
reconstruction, the entropy and the marginal entropy, which are 1, 1 and 0 in Eq. 7.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from cplmix_ray.config.names import CouplingName
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig


@dataclass(frozen=True)
class Weights:
    """Coupling and weights of the objective at a step.

    Attributes:
        coupling, lam: name of the coupling between arms, and its weight.
        reconstruction: weight of -E log p(x|s,c) and beta times the KL divergence of the state; None if only the
            encoders are trained.
        entropy: weight of H(c|x), which is maximised.
        marginal: weight of the entropy of the mean posterior, which is maximised.
        guess: weight of -log q of the initial cluster.
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
    """Terms of the arms of this worker, each of shape (A_local,), in nats averaged over the minibatch.

    Attributes:
        entropy: H(c|x).
        marginal_entropy: entropy of the mean posterior, or its agreement with a prior; see :func:`marginal_entropy`.
        reconstruction: -E log p(x|s,c); None if only the encoders are trained.
        kl_state: E KL(q(s|c,x) || p(s|c)); None likewise.
        guess: -E log q(guess|x); None if no initial clustering is learned.
    """

    entropy: Tensor
    marginal_entropy: Tensor
    reconstruction: Tensor | None = None
    kl_state: Tensor | None = None
    guess: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """The terms that are not None, by name."""
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
    """Entropy in nats of the mean posterior of the minibatch, (A,); log K if all categories are used equally.

    Args:
        log_q_ank: log-posteriors of the cells on this worker.
        log_prior_k: log of the expected abundances; with them the result is log K - KL(mean posterior || prior), which
            is largest if the categories are used as expected, and equal to the entropy for a uniform prior.
        average: computes the mean over the minibatch from the mean over the cells on this worker.
    """
    q_ak = average(log_q_ank.exp().mean(dim=1))
    log_ratio_ak = q_ak.clamp_min(1e-20).log()
    if log_prior_k is not None:
        log_ratio_ak = log_ratio_ak - log_prior_k - math.log(len(log_prior_k))
    return -(q_ak * log_ratio_ak).sum(-1)


def arm_weight(n_arms: int) -> int:
    """Factor of the terms of an arm: the number of pairs it is in, A-1, or 1 for a single arm (a plain mixture VAE)."""
    return max(n_arms - 1, 1)


def loss_of(terms: Terms, n_arms: int, weights: Weights) -> Tensor:
    """Loss of each arm without the coupling, shape (A_local,)."""
    own = -weights.entropy * terms.entropy - weights.marginal * terms.marginal_entropy
    if weights.reconstruction is not None and terms.reconstruction is not None and terms.kl_state is not None:
        own = own + weights.reconstruction * (terms.reconstruction + weights.beta * terms.kl_state)
    if terms.guess is not None:
        own = own + weights.guess * terms.guess
    return arm_weight(n_arms) * own


def aligning(step: int, config: CplMixVAEConfig) -> bool:
    """Whether ``step`` (from 0) belongs to the first stage, in which only the encoders are trained."""
    return step < config.alignment.align_steps


def weights_at(step: int, config: CplMixVAEConfig) -> Weights:
    """Weights at ``step`` (from 0): those of the first stage, then those of Eq. 7 with the warm-up of lambda."""
    if aligning(step, config):
        first = config.alignment
        return Weights(
            first.align_coupling, 1.0, None, 0.0, first.align_entropy, first.align_marginal, first.align_guess
        )
    objective, warmup = config.objective, config.training.lam_warmup
    done = step - config.alignment.align_steps
    lam = objective.lam * min(1.0, done / warmup) if warmup else objective.lam
    return Weights(
        objective.coupling,
        lam,
        objective.reconstruction,
        objective.beta,
        objective.entropy,
        objective.marginal,
        objective.guess,
    )
