"""Which cells a minibatch holds, as a function of (seed, step): the same for all arms, and known after any restart."""

from dataclasses import dataclass

import numpy as np

from cplmix_ray.utils.randomness import DATA

BLOCK = 32
"""Training cells that are read in one go where cells are on disk: fewer cost more calls, more mix less well."""


class CellOrder:
    """Each epoch is a new permutation of the training cells; its last, incomplete minibatch is left out."""

    def __init__(self, train_idx: np.ndarray, batch_size: int, seed: int):
        self.train_idx, self.seed = train_idx, seed
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
        return np.random.default_rng([self.seed, DATA, epoch]).permutation(self.train_idx)


@dataclass(frozen=True)
class Buffer:
    """Cells of a stretch of steps, which lie in memory together.

    Attributes:
        number: counted from the first step of the run.
        first, last: its first step, and the one after its last.
        idx_n: rows of its cells, ascending.
    """

    number: int
    first: int
    last: int
    idx_n: np.ndarray


class BlockOrder(CellOrder):
    """The order of cells that are read from disk: what is near in the file is read together, and then mixed.

    Each epoch permutes blocks of BLOCK training cells that follow one another in the file, cuts their sequence into
    buffers of a bounded number of cells, and permutes the cells of each buffer.

    Args:
        buffer_cells: cells that a buffer may hold; it holds at least one minibatch.
    """

    def __init__(self, train_idx: np.ndarray, batch_size: int, seed: int, buffer_cells: int):
        super().__init__(train_idx, batch_size, seed)
        self.per_buffer = max(1, buffer_cells // self.batch_size)
        self.buffers = -(-self.batches // self.per_buffer)

    def buffer_at(self, step: int) -> Buffer:
        """The buffer that holds the minibatch of ``step``."""
        epoch, at = divmod(step, self.batches)
        within = at // self.per_buffer
        first, last = within * self.per_buffer, min((within + 1) * self.per_buffer, self.batches)
        cells_n = self._in_blocks(epoch)[first * self.batch_size : last * self.batch_size]
        if self.buffers == 1:  # those that this epoch leaves out are a part too: another leaves out others
            cells_n = self.train_idx
        start = epoch * self.batches
        return Buffer(epoch * self.buffers + within, start + first, start + last, np.sort(cells_n))

    def _permuted(self, epoch: int) -> np.ndarray:
        cells_n, size = self._in_blocks(epoch), self.per_buffer * self.batch_size
        luck = np.random.default_rng([self.seed, DATA, epoch, 1])
        return np.concatenate([luck.permutation(cells_n[at : at + size]) for at in range(0, len(cells_n), size)])

    def _in_blocks(self, epoch: int) -> np.ndarray:
        """Training cells with their blocks permuted; those that no minibatch has are the last."""
        blocks = -(-len(self.train_idx) // BLOCK)
        at_n = (np.random.default_rng([self.seed, DATA, epoch]).permutation(blocks)[:, None] * BLOCK) + np.arange(BLOCK)
        at_n = at_n.ravel()
        cells_n = self.train_idx[at_n[at_n < len(self.train_idx)]]
        return cells_n[: self.batches * self.batch_size]
