"""Neighbour copies: a cell stands for its near neighbours, which share its type more often than its noise."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.copies.base import Copy


@dataclass(frozen=True)
class Neighbours(Copy):
    """Each cell is replaced by one of its k nearest training cells or itself, all k + 1 equally likely.

    Args:
        table_nk: rows of the neighbours of every row of the data, shape (N, k), int64, on the CPU.
    """

    table_nk: Tensor

    def stand_in(self, idx_n: Tensor, generator: torch.Generator) -> Tensor:
        k = self.table_nk.shape[1]
        pick_n = torch.randint(0, k + 1, idx_n.shape, generator=generator, device=generator.device).to(idx_n.device)
        neighbour_n = self.table_nk[idx_n, pick_n.clamp_max(k - 1)]
        return torch.where(pick_n == k, idx_n, neighbour_n)
