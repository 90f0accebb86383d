"""Inference: outputs of a model for given cells, without sampling."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.models.base import CellBlock, CellReader, Family, Model

BATCH = 2048
"""Number of cells for which outputs are computed at a time."""


@torch.no_grad()
def infer_blocks(
    model: Model, family: Family, blocks: Iterable[CellBlock], n: int, wanted: Sequence[str]
) -> dict[str, np.ndarray]:
    """Outputs for all cells of ``blocks``, float32; one block is in memory at a time.

    Args:
        blocks: consecutive cells.
        n: number of cells in all blocks.
        wanted: names of outputs.
    """
    arrays: dict[str, np.ndarray] = {}
    sums: dict[str, Tensor] = {}
    at = 0
    for block in blocks:
        size = len(block)
        for name, value in model.infer(block, wanted).items():
            axis = family.outputs[name].cells_axis
            if axis is None:
                sums[name] = sums.get(name, torch.zeros(value.shape)) + value.cpu() * size
                continue
            if name not in arrays:
                arrays[name] = np.empty((*value.shape[:axis], n, *value.shape[axis + 1 :]), np.float32)
            arrays[name][(slice(None),) * axis + (slice(at, at + size),)] = value.cpu().numpy()
        at += size
    return arrays | {name: (total / n).numpy() for name, total in sums.items()}


def infer_rows(
    model: Model, family: Family, cells: CellReader, data: TrainingSet, idx_n: np.ndarray, wanted: Sequence[str]
) -> dict[str, np.ndarray]:
    """Outputs for the cells ``idx_n`` of a training set, without augmentation."""
    return infer_blocks(model, family, _blocks(cells, data, idx_n), len(idx_n), wanted)


def _blocks(cells: CellReader, data: TrainingSet, idx_n: np.ndarray) -> Iterator[CellBlock]:
    for start in range(0, len(idx_n), BATCH):
        part = idx_n[start : start + BATCH]
        rows = {modality: cells.rows(torch.as_tensor(part), modality) for modality in data.modalities}
        yield CellBlock.of(data, part, rows)
