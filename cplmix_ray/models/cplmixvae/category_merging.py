"""The end of the first stage: fine categories become the K categories of the run."""

import numpy as np
import torch

from cplmix_ray.augmentations.base import make_copies
from cplmix_ray.clustering.merging import joint_of_copies, merge_by_lift
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.training_step import Exercise
from cplmix_ray.nn.rows import Rows
from cplmix_ray.utils.randomness import merging_generator

_PAIRS, _BATCH = 20_000, 2_000
"""Pairs of copies that the joint of the fine categories is taken from, in blocks."""


@torch.no_grad()
def merge_categories(group: ArmGroup, exercise: Exercise, train_idx: np.ndarray, step: int) -> None:
    """Let every arm pool its fine categories into K, by what all arms together confuse.

    All workers draw the same copies and sum their arms' posteriors, so that they come to the same groups. With few
    cells every cell is drawn several times, each time as other copies.
    """
    config, network = exercise.config, group.network
    network.eval()
    generator = merging_generator(config.seed, step, group.device)
    n_fine = config.model.n_fine
    joint_kl = np.zeros((n_fine, n_fine))
    order = np.random.default_rng([config.seed, step]).permutation(train_idx)
    for start in range(0, _PAIRS, _BATCH):
        idx_n = torch.as_tensor(np.take(order, np.arange(start, start + _BATCH), mode="wrap"))
        first, second = (
            _mean_posterior(group, exercise, make_copies(exercise.chain, idx_n, exercise.rows, generator))
            for _ in range(2)
        )
        joint_kl += joint_of_copies(first, second)
    groups = merge_by_lift(joint_kl, joint_kl.sum(axis=1), config.model.n_categories)
    network.merge(torch.as_tensor(groups, device=group.device))


def _mean_posterior(group: ArmGroup, exercise: Exercise, x: Rows) -> np.ndarray:
    """Mean over all arms of the posterior of the fine categories, shape (n, fine)."""
    q_ank = group.network.encode([x] * len(group.arms), fine=True).log_q_ank.exp()
    sum_nk, _ = exercise.arm_sum.launch(q_ank, q_ank.new_zeros(len(group.arms))).wait()
    return (sum_nk / exercise.config.model.n_arms).cpu().numpy()
