"""The cells of each minibatch as a function of (seed, step): the same for all units, and after any restart."""

from dataclasses import dataclass

import numpy as np

BLOCK = 32
"""Consecutive training cells that are read together from disk: smaller blocks need more reads, larger ones mix less."""


class MinibatchSampler:
    """Minibatches of an epoch from a permutation of the training cells; a last, incomplete minibatch is dropped.

    Args:
        train_idx: rows of the training cells.
        seed, key: seed the permutations together with the epoch.
    """

    def __init__(self, train_idx: np.ndarray, batch_size: int, seed: int, key: tuple[int, ...]):
        self.train_idx, self.seed = train_idx, (seed, *key)
        self.batch_size = min(batch_size, len(train_idx))
        self.batches = len(train_idx) // self.batch_size
        self._epoch, self._order = -1, train_idx

    def batch(self, step: int) -> np.ndarray:
        """Rows of the minibatch of ``step``, shape (batch_size,)."""
        epoch, at = divmod(step, self.batches)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permuted(epoch)
        return self._order[at * self.batch_size : (at + 1) * self.batch_size]

    def _permuted(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([*self.seed, epoch]).permutation(self.train_idx)


@dataclass(frozen=True)
class Buffer:
    """The cells of consecutive steps, which are in memory together.

    Attributes:
        number: its number, counted from the start of the run.
        first, last: its first step, and the step after its last one.
        idx_n: rows of its cells, ascending.
    """

    number: int
    first: int
    last: int
    idx_n: np.ndarray


class BlockSampler(MinibatchSampler):
    """Minibatches of cells on disk: cells that are close in the file are read together, and then mixed.

    Each epoch permutes blocks of BLOCK training cells that are consecutive in the file, splits their sequence into
    buffers of bounded size, and permutes the cells of each buffer.

    Args:
        buffer_cells: largest number of cells in a buffer; a buffer has at least one minibatch.
    """

    def __init__(self, train_idx: np.ndarray, batch_size: int, seed: int, key: tuple[int, ...], buffer_cells: int):
        super().__init__(train_idx, batch_size, seed, key)
        self.per_buffer = max(1, buffer_cells // self.batch_size)
        self.buffers = -(-self.batches // self.per_buffer)

    def buffer_at(self, step: int) -> Buffer:
        """The buffer with the minibatch of ``step``."""
        epoch, at = divmod(step, self.batches)
        within = at // self.per_buffer
        first, last = within * self.per_buffer, min((within + 1) * self.per_buffer, self.batches)
        cells_n = self._in_blocks(epoch)[first * self.batch_size : last * self.batch_size]
        if self.buffers == 1:  # with the cells that this epoch drops, since other epochs drop others
            cells_n = self.train_idx
        start = epoch * self.batches
        return Buffer(epoch * self.buffers + within, start + first, start + last, np.sort(cells_n))

    def _permuted(self, epoch: int) -> np.ndarray:
        cells_n, size = self._in_blocks(epoch), self.per_buffer * self.batch_size
        rng = np.random.default_rng([*self.seed, epoch, 1])
        return np.concatenate([rng.permutation(cells_n[at : at + size]) for at in range(0, len(cells_n), size)])

    def _in_blocks(self, epoch: int) -> np.ndarray:
        """Training cells with their blocks permuted, without those that the epoch drops."""
        blocks = -(-len(self.train_idx) // BLOCK)
        at_n = (np.random.default_rng([*self.seed, epoch]).permutation(blocks)[:, None] * BLOCK) + np.arange(BLOCK)
        at_n = at_n.ravel()
        cells_n = self.train_idx[at_n[at_n < len(self.train_idx)]]
        return cells_n[: self.batches * self.batch_size]
