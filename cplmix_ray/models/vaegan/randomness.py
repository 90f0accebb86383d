"""Explicit randomness: a generator for every (seed, purpose); nothing depends on global state."""

import numpy as np
import torch

GENERATOR, DISCRIMINATOR, LATENT, NOISE, CLASSIFIER, COPIES = (
    "generator",
    "discriminator",
    "latent",
    "noise",
    "classifier",
    "copies",
)
PURPOSES = (GENERATOR, DISCRIMINATOR, LATENT, NOISE, CLASSIFIER, COPIES)
_AUGMENTER, _ORDER = 0xA06, 1000  # apart from the arms' generators, and from the purposes


def generator_for(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose."""
    state = np.random.SeedSequence((seed, _AUGMENTER, PURPOSES.index(purpose))).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def minibatches(rows: np.ndarray, batch_size: int, n_steps: int, seed: int):
    """Rows of one minibatch after the other; each epoch is a new permutation without its incomplete last minibatch."""
    size = min(batch_size, len(rows))
    each = len(rows) // size
    order = rows
    for step in range(n_steps):
        epoch, at = divmod(step, each)
        if at == 0:
            order = np.random.default_rng([seed, _AUGMENTER, _ORDER, epoch]).permutation(rows)
        yield order[at * size : (at + 1) * size]
