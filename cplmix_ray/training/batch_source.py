"""Batch sources: the minibatches of a run, from cells in memory, generated on demand, or on disk."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.config import RunConfig
from cplmix_ray.data.device_transfer import Reader, row_reader
from cplmix_ray.data.training_set import MAIN, TrainingSet
from cplmix_ray.nn.rows import Rows
from cplmix_ray.training.prefetch import Prefetcher
from cplmix_ray.training.sampler import BlockSampler, MinibatchSampler


class BatchSource:
    """The minibatches of a run, and a reader of their cells (:class:`cplmix_ray.models.base.CellReader`).

    Args:
        sampler: the cells of each minibatch.
        readers: modality -> reads rows onto the device.
        prefetchers: modality on disk -> reads its rows ahead of their use.
    """

    def __init__(self, sampler: MinibatchSampler, readers: dict[str, Reader], prefetchers: dict[str, Prefetcher]):
        self.sampler, self.readers, self.prefetchers = sampler, readers, prefetchers

    def batch(self, step: int) -> np.ndarray:
        """Rows of the minibatch of ``step``, shape (batch_size,), whose values can be read afterwards.

        Raises:
            InputError: a file is missing or damaged.
        """
        for prefetcher in self.prefetchers.values():
            prefetcher.batch(step)
        return self.sampler.batch(step)

    def rows(self, idx_n: Tensor, modality: str = MAIN) -> Rows:
        return self.readers[modality](idx_n)

    @property
    def available(self) -> np.ndarray:
        for prefetcher in self.prefetchers.values():
            return prefetcher.available
        return self.sampler.train_idx

    @property
    def pick_neighbors(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
        for prefetcher in self.prefetchers.values():
            if prefetcher.neighbor_index is not None:
                return prefetcher.pick_neighbors
        return None


@contextmanager
def open_batch_source(
    data: TrainingSet, config: RunConfig, device: torch.device, sampler_key: tuple[int, ...]
) -> Iterator[BatchSource]:
    """The minibatches of a run; files and threads are closed at the end of the context.

    Args:
        sampler_key: seeds the order of the cells together with the seed of the run.
    """
    training = config.training
    matrices = {name: modality.matrix for name, modality in data.modalities.items()}
    on_disk = {name: matrix for name, matrix in matrices.items() if matrix.on_disk}
    sampler = MinibatchSampler(data.train_idx, training.batch_size, config.seed, sampler_key)
    prefetchers: dict[str, Prefetcher] = {}
    with ExitStack() as stack:
        if on_disk:
            buffer_cells = min(matrix.buffer_cells for matrix in on_disk.values())
            sampler = BlockSampler(data.train_idx, training.batch_size, config.seed, sampler_key, buffer_cells)
            n_steps = training.steps(len(data.train_idx))
            for name, matrix in on_disk.items():
                # Neighbors are those of the main modality.
                index = getattr(data.tables, "neighbor_index", None) if matrix is data.matrix else None
                prefetchers[name] = stack.enter_context(Prefetcher(matrix, sampler, data.val_idx, n_steps, index))
        readers = {name: row_reader(prefetchers.get(name, matrix), device) for name, matrix in matrices.items()}
        yield BatchSource(sampler, readers, prefetchers)
