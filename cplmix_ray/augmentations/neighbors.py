"""Neighbour copies: a cell stands for its near neighbours, which share its type more often than its noise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.augmentations.base import Copy


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


@dataclass(frozen=True)
class NeighboursAtHand(Copy):
    """The same where cells stay on disk: the nearest are those among the cells that are in memory together.

    Args:
        k: neighbours of a cell.
        stand_ins: rows that stand in for rows, given which neighbour is picked for each; k picks the cell itself.
    """

    k: int
    stand_ins: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def stand_in(self, idx_n: Tensor, generator: torch.Generator) -> Tensor:
        pick_n = torch.randint(0, self.k + 1, idx_n.shape, generator=generator, device=generator.device)
        return torch.from_numpy(self.stand_ins(idx_n.numpy(), pick_n.cpu().numpy()))
