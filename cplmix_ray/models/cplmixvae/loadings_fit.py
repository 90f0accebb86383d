"""Fit of the linear decoders to the categories that their arms have learned in the first stage."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.training_step import StepContext

_CELLS, _BATCH, _OF_CATEGORY = 20_000, 2_000, 1_000
"""Largest number of cells that are used, of a block, and of a category."""


@torch.no_grad()
def fit_loadings(group: ArmGroup, context: StepContext, train_idx: np.ndarray, step: int) -> None:
    """Means, loadings and noise in closed form, from cells of which each belongs to its most probable category.

    All workers draw the same cells, so that the result does not depend on the distribution of arms over workers.
    """
    linear, network = group.network.linear, group.network
    assert linear is not None
    network.eval()
    idx_n = np.random.default_rng([context.config.seed, step]).permutation(train_idx)[:_CELLS]
    found = []
    for start in range(0, len(idx_n), _BATCH):
        rows = context.rows(torch.as_tensor(idx_n[start : start + _BATCH]))
        q_ank = network.encode([rows] * len(group.arms)).log_q_ank.exp()
        if context.config.model.shared_parameters:  # running statistics, and so the categories, are each arm's own
            q_ank = context.unit_sum.launch(q_ank, q_ank.new_zeros(len(group.arms))).wait()[0].unsqueeze(0)
        found.append(q_ank.argmax(-1).cpu().numpy())
    category_an = np.concatenate(found, axis=1)
    for arm_set in range(len(linear.weight)):
        linear.fit(arm_set, CellsByCategory(context, idx_n, category_an[arm_set]))


@dataclass(frozen=True)
class CellsByCategory:
    """Some cells of every category with their covariates, read again each time that they are iterated over.

    Args:
        idx_n, category_n: cells in random order, and their categories.
    """

    context: StepContext
    idx_n: np.ndarray
    category_n: np.ndarray

    def __iter__(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        for category in np.unique(self.category_n):
            chosen = np.sort(self.idx_n[self.category_n == category][:_OF_CATEGORY])
            x_ng = self.context.rows(torch.as_tensor(chosen)).dense().float()
            v_nv = self.context.covariates_of(chosen)
            yield int(category), x_ng, x_ng.new_zeros(len(x_ng), 0) if v_nv is None else v_nv
