"""Explicit randomness: a generator for every (seed, arm, purpose), so that nothing depends on where an arm runs."""

from collections.abc import Iterable

import numpy as np
import torch

INIT, AUGMENT, GUMBEL, STATE, DROPOUT = "init", "augment", "gumbel", "state", "dropout"
PURPOSES = (INIT, AUGMENT, GUMBEL, STATE, DROPOUT)
DATA, _MERGING, _SHARD = 1000, 1001, 2000  # apart from the purposes, as these belong to no arm


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def arm_generators(
    seed: int, arm: int, device: torch.device, purposes: Iterable[str] = PURPOSES, step: int = 0, shard: int = 0
) -> dict[str, torch.Generator]:
    """Fresh generators of one arm, for a share of its minibatches.

    Args:
        step: 0 at the start of a run; where a run goes on on another kind of device, whose generators have other
            states, the step it goes on from.
    """
    key: tuple[int, ...] = (seed, arm) if step == 0 else (seed, arm, step)
    if shard:
        key = (seed, arm, step, _SHARD + shard)
    return {p: torch.Generator(device).manual_seed(_seed(*key, PURPOSES.index(p))) for p in purposes}


def merging_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """For the copies from which fine categories are merged: the same for all workers, known after any restart."""
    return torch.Generator(device).manual_seed(_seed(seed, _MERGING, step))
