"""Neighbour augmentation: a cell is replaced by one of its nearest cells, most of which share its type."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.augmentations.augmentation import (
    Augmentation,
    AugmentationInputs,
    PickNeighbors,
    register_augmentation,
)


@dataclass(frozen=True)
class Neighbors(Augmentation):
    """Each cell is replaced by one of its J nearest training cells or kept, all J + 1 with equal probability.

    Args:
        table_nj: rows of the neighbours of every row of the data, shape (N, J), int64, on the CPU.
    """

    table_nj: Tensor

    def choose_rows(self, idx_n: Tensor, generator: torch.Generator) -> Tensor:
        n_neighbors = self.table_nj.shape[1]
        pick_n = torch.randint(0, n_neighbors + 1, idx_n.shape, generator=generator, device=generator.device)
        pick_n = pick_n.to(idx_n.device)
        neighbour_n = self.table_nj[idx_n, pick_n.clamp_max(n_neighbors - 1)]
        return torch.where(pick_n == n_neighbors, idx_n, neighbour_n)


@dataclass(frozen=True)
class NeighborsInMemory(Augmentation):
    """The same where cells stay on disk: neighbours are searched among the cells that are in memory at that time.

    Args:
        n_neighbors: J.
        pick: from rows and the number of the neighbour wanted for each to the neighbours' rows; J is the cell itself.
    """

    n_neighbors: int
    pick: PickNeighbors

    def choose_rows(self, idx_n: Tensor, generator: torch.Generator) -> Tensor:
        pick_n = torch.randint(0, self.n_neighbors + 1, idx_n.shape, generator=generator, device=generator.device)
        return torch.from_numpy(self.pick(idx_n.numpy(), pick_n.cpu().numpy()))


def _build(inputs: AugmentationInputs) -> Augmentation:
    if inputs.tables.neighbor_index is None:
        assert inputs.tables.neighbors is not None
        return Neighbors(torch.as_tensor(inputs.tables.neighbors))
    assert inputs.pick_neighbors is not None
    return NeighborsInMemory(inputs.tables.neighbor_index.n_neighbors, inputs.pick_neighbors)


_ALL = ("images", "counts", "log")
register_augmentation("neighbours", _build, kinds=_ALL, default_for=_ALL, needs_neighbors=True)
