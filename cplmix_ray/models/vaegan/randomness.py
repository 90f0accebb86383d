"""Random generators: one for every (seed, purpose), independent of global state."""

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
ORDER_KEY = (0xA06, 1000)
"""Key of the order of cells, different from those of other model families and of the purposes."""
_SHARD = 2000


def generator_for(seed: int, purpose: str, device: torch.device | str = "cpu", shard: int = 0) -> torch.Generator:
    """A new generator for one purpose and one shard of the minibatches."""
    key = (seed, ORDER_KEY[0], PURPOSES.index(purpose))
    state = np.random.SeedSequence((*key, _SHARD + shard) if shard else key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def minibatches(rows: np.ndarray, batch_size: int, n_steps: int, seed: int):
    """Rows of each minibatch; each epoch is a new permutation without its last, incomplete minibatch."""
    size = min(batch_size, len(rows))
    each = len(rows) // size
    order = rows
    for step in range(n_steps):
        epoch, at = divmod(step, each)
        if at == 0:
            order = np.random.default_rng([seed, *ORDER_KEY, epoch]).permutation(rows)
        yield order[at * size : (at + 1) * size]
