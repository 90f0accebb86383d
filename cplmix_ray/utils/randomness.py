"""A random generator for every (seed, arm, purpose), so that results do not depend on where an arm runs."""

from collections.abc import Iterable

import numpy as np
import torch

INIT, AUGMENT, GUMBEL, STATE, DROPOUT = "init", "augment", "gumbel", "state", "dropout"
PURPOSES = (INIT, AUGMENT, GUMBEL, STATE, DROPOUT)
_MERGING, _SHARD = 1001, 2000  # not purposes, as they belong to no arm


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def arm_generators(
    seed: int, arm: int, device: torch.device, purposes: Iterable[str] = PURPOSES, step: int = 0, shard: int = 0
) -> dict[str, torch.Generator]:
    """New generators of one arm, for a shard of its minibatches.

    Args:
        step: 0 at the start of a run. A run that is resumed on another kind of device, where the states of generators
            cannot be restored, gives the step it is resumed from.
    """
    key: tuple[int, ...] = (seed, arm) if step == 0 else (seed, arm, step)
    if shard:
        key = (seed, arm, step, _SHARD + shard)
    return {p: torch.Generator(device).manual_seed(_seed(*key, PURPOSES.index(p))) for p in purposes}


def merging_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """Generator for the augmentations used to merge fine categories: the same on all workers and after restarts."""
    return torch.Generator(device).manual_seed(_seed(seed, _MERGING, step))
