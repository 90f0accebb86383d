"""Prefetching of cells on disk: minibatches are served from a buffer in memory while the next buffer is read."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.base import Matrix, RowReader
from cplmix_ray.data.matrix.block import Block, contiguous
from cplmix_ray.data.neighbors.index import NeighborIndex
from cplmix_ray.training.sampler import BlockSampler, Buffer

CHUNK = 4096
"""Cells that are read at once; between chunks the reading thread can be stopped."""


@dataclass(frozen=True)
class LoadedBuffer:
    """Content of a buffer.

    Attributes:
        block: its rows, in ascending order.
        near_nj: neighbors of each cell, as positions among these rows; None if augmentations need none.
    """

    block: Block
    near_nj: np.ndarray | None


class Prefetcher(RowReader):
    """Two buffers of bounded size, filled by a thread (HDF5 and NumPy release Python's global lock while they work).

    A context manager: at its end the thread and the file are closed, also after an error.

    Args:
        matrix: the cells on disk.
        sampler: the minibatches and the buffers they belong to.
        cached_idx: ascending rows that are read repeatedly, such as the validation cells; they are kept in memory from
            the first time on.
        n_steps: number of steps of the run, after which nothing is prefetched.
        neighbor_index: index of the cells if neighbors are needed.

    Attributes:
        peak_rows: the largest number of rows of buffers that were in memory or being read at a time.
    """

    def __init__(
        self,
        matrix: Matrix,
        sampler: BlockSampler,
        cached_idx: np.ndarray,
        n_steps: int,
        neighbor_index: NeighborIndex | None = None,
    ):
        self.matrix, self.sampler, self.n_steps = matrix, sampler, n_steps
        self.neighbor_index, self.cached_idx, self.peak_rows = neighbor_index, cached_idx, 0
        self._cached: Block = None
        self._stack = ExitStack()
        self._buffer: Buffer | None = None
        self._loaded: LoadedBuffer | None = None
        self._next: tuple[Buffer, Future[LoadedBuffer | None]] | None = None
        self._stopped = False

    def __enter__(self) -> "Prefetcher":
        self._read: Callable[[np.ndarray], Block] = self._stack.enter_context(self.matrix.opened())
        self._thread = self._stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="cells"))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped = True
        self._loaded = self._next = self._cached = None
        self._stack.close()

    @property
    def reader(self) -> "Prefetcher":
        return self

    def batch(self, step: int) -> np.ndarray:
        """Rows of the minibatch of ``step``; its buffer is loaded first if necessary.

        Raises:
            InputError: the file is missing or damaged.
        """
        if self._buffer is None or not self._buffer.first <= step < self._buffer.last:
            self._advance(step)
        return self.sampler.batch(step)

    @property
    def available(self) -> np.ndarray:
        """Rows of the current buffer, ascending."""
        assert self._buffer is not None
        return self._buffer.idx_n

    def rows(self, idx_n: np.ndarray) -> Block:
        """Rows from the buffer or the cached rows; from the file if some of them are in neither."""
        at_n, found_n = _positions(None if self._buffer is None else self._buffer.idx_n, idx_n)
        if self._loaded is not None and found_n.all():
            return contiguous(self._loaded.block[at_n])
        at_n, found_n = _positions(self.cached_idx, idx_n)
        if not found_n.all():
            return self.matrix.rows(idx_n)
        if self._cached is None:
            self._cached = self.matrix.rows(self.cached_idx)
        return contiguous(self._cached[at_n])

    def pick_neighbors(self, idx_n: np.ndarray, pick_n: np.ndarray) -> np.ndarray:
        """Neighbor number ``pick_n`` of each cell; the cell itself if there is none, or it is not in the buffer."""
        assert self._loaded is not None and self._loaded.near_nj is not None
        at_n, found_n = _positions(self.available, idx_n)
        n_near = self._loaded.near_nj.shape[1]
        neighbor_n = self.available[self._loaded.near_nj[at_n, pick_n.clip(max=n_near - 1)]]
        return np.where((pick_n < n_near) & found_n, neighbor_n, idx_n)

    def _advance(self, step: int) -> None:
        """Make the buffer of ``step`` the current one, and start to read the one after it."""
        wanted = self.sampler.buffer_at(step)
        if self._next is None or self._next[0].number != wanted.number:
            self._prefetch(wanted)
        assert self._next is not None
        buffer, reading = self._next
        self._buffer = self._loaded = None  # released before the wait, when the next one may be almost complete
        self._loaded = reading.result()
        self._buffer, self._next = buffer, None
        if buffer.last < self.n_steps:
            self._prefetch(self.sampler.buffer_at(buffer.last))

    def _prefetch(self, buffer: Buffer) -> None:
        current = self._buffer
        if current is not None and np.array_equal(current.idx_n, buffer.idx_n):
            # All training cells fit into one buffer, which is kept.
            same: Future[LoadedBuffer | None] = Future()
            same.set_result(self._loaded)
            self._next = buffer, same
            return
        self.peak_rows = max(self.peak_rows, len(buffer.idx_n) + (0 if current is None else len(current.idx_n)))
        self._next = buffer, self._thread.submit(self._load, buffer.idx_n)

    def _load(self, idx_n: np.ndarray) -> LoadedBuffer | None:
        """Read rows, on the thread; in chunks, so that unselected genes of few rows are in memory at a time."""
        chunks = []
        for at in range(0, len(idx_n), CHUNK):
            if self._stopped:
                return None
            chunks.append(self._read(idx_n[at : at + CHUNK]))
        block = sp.vstack(chunks, format="csr") if sp.issparse(chunks[0]) else np.concatenate(chunks)
        return LoadedBuffer(block, None if self.neighbor_index is None else self.neighbor_index.neighbors(idx_n))


def _positions(among: np.ndarray | None, idx_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of rows among ascending ``among``, and whether each is there."""
    if among is None or not len(among):
        return np.zeros(len(idx_n), int), np.zeros(len(idx_n), bool)
    at_n = np.searchsorted(among, idx_n).clip(max=len(among) - 1)
    return at_n, among[at_n] == idx_n
