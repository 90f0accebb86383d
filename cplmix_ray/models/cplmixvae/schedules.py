"""Learning rate, and what counts in the objective, as functions of the step."""

import math

from cplmix_ray.config import Config, Training
from cplmix_ray.models.cplmixvae.objective import Weights


def lr_at(step: int, n_steps: int, training: Training) -> float:
    """Learning rate of ``step`` (from 0): a linear rise over ``lr_warmup`` steps, then constant or a cosine to zero."""
    if step < training.lr_warmup:
        return training.lr * (step + 1) / (training.lr_warmup + 1)
    if training.lr_schedule == "constant":
        return training.lr
    done = (step - training.lr_warmup) / max(1, n_steps - training.lr_warmup)
    return training.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def aligning(step: int, config: Config) -> bool:
    """Whether ``step`` (from 0) is one of the first stage, in which the encoders train alone."""
    return step < config.alignment.align_steps


def weights_at(step: int, config: Config) -> Weights:
    """The objective of ``step``: that of the first stage, then Eq. 7 with lambda after its linear rise."""
    if aligning(step, config):
        first = config.alignment
        return Weights(
            first.align_coupling, 1.0, None, 0.0, first.align_entropy, first.align_marginal, first.align_guess
        )
    objective, rise = config.objective, config.training.lam_warmup
    done = step - config.alignment.align_steps
    lam = objective.lam * min(1.0, done / rise) if rise else objective.lam
    return Weights(
        objective.coupling,
        lam,
        objective.reconstruction,
        objective.beta,
        objective.entropy,
        objective.marginal,
        objective.guess,
    )
