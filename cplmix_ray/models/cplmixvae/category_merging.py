"""Merging of categories at the end of an over-clustered first stage: fine categories become the K of the run."""

import numpy as np
import torch

from cplmix_ray.augmentations.augmentation import augmented_rows
from cplmix_ray.clustering.merging import joint_distribution, merge_by_lift
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.training_step import StepContext
from cplmix_ray.nn.rows import Rows
from cplmix_ray.utils.randomness import merging_generator

_PAIRS, _BATCH = 20_000, 2_000
"""Number of pairs of copies from which the joint distribution of the fine categories is estimated, and of a block."""


@torch.no_grad()
def merge_categories(group: ArmGroup, context: StepContext, train_idx: np.ndarray, step: int) -> None:
    """Merge the fine categories of every arm into K; those that the arms together confuse most often are merged.

    All workers draw the same copies and sum the posteriors of all arms, so that all find the same groups. If there are
    few cells, each is used several times with different copies.
    """
    config, network = context.config, group.network
    network.eval()
    generator = merging_generator(config.seed, step, group.device)
    n_fine = config.model.n_fine
    joint_kl = np.zeros((n_fine, n_fine))
    order = np.random.default_rng([config.seed, step]).permutation(train_idx)
    for start in range(0, _PAIRS, _BATCH):
        idx_n = torch.as_tensor(np.take(order, np.arange(start, start + _BATCH), mode="wrap"))
        first, second = (
            _mean_posterior(group, context, augmented_rows(context.augmentations, idx_n, context.rows, generator))
            for _ in range(2)
        )
        joint_kl += joint_distribution(first, second)
    groups = merge_by_lift(joint_kl, joint_kl.sum(axis=1), config.model.n_k)
    network.merge(torch.as_tensor(groups, device=group.device))


def _mean_posterior(group: ArmGroup, context: StepContext, x: Rows) -> np.ndarray:
    """Mean over all arms of the posterior of the fine categories, shape (n, fine)."""
    q_ank = group.network.encode([x] * len(group.arms), fine=True).log_q_ank.exp()
    sum_nk, _ = context.unit_sum.launch(q_ank, q_ank.new_zeros(len(group.arms))).wait()
    return (sum_nk / context.config.model.n_arms).cpu().numpy()
