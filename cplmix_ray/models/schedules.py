"""Schedules that every model family may use."""

import math

from cplmix_ray.config import Training


def lr_at(step: int, n_steps: int, training: Training) -> float:
    """Learning rate of ``step`` (from 0): a linear rise over ``lr_warmup`` steps, then constant or a cosine to zero."""
    if step < training.lr_warmup:
        return training.lr * (step + 1) / (training.lr_warmup + 1)
    if training.lr_schedule == "constant":
        return training.lr
    done = (step - training.lr_warmup) / max(1, n_steps - training.lr_warmup)
    return training.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
