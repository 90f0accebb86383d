"""Rows on disk for the loop: a buffer in memory serves minibatches while the next one is read."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.hdf5_matrix import Block
from cplmix_ray.data.matrix.on_disk import ReadRows, RowsOnDisk
from cplmix_ray.data.neighbors.index import Places
from cplmix_ray.training.sampler import BlockOrder, Buffer

PIECE = 4096
"""Cells that the reader reads between two looks at whether it is still wanted."""


@dataclass(frozen=True)
class Load:
    """What is in memory of a buffer.

    Attributes:
        block: its rows, in ascending order.
        near_nk: neighbours of each cell, as positions among the rows; None where copies need none.
    """

    block: Block
    near_nk: np.ndarray | None


class Feed(ReadRows):
    """Two buffers of bounded size, filled by a thread of its own: HDF5 and NumPy let go of Python while they work.

    To be used as a context, at the end of which thread and file are gone, whatever happened.

    Args:
        order: of the training cells.
        kept_idx: rows that are asked for again and again, ascending: they are read once, when they first are.
        n_steps: beyond them nothing is read.
        places: of the cells, where neighbours are wanted.

    Attributes:
        most_rows: the largest number of rows of buffers that were in memory, or on their way there, at a time.
    """

    def __init__(
        self,
        on_disk: RowsOnDisk,
        order: BlockOrder,
        kept_idx: np.ndarray,
        n_steps: int,
        places: Places | None = None,
    ):
        self.on_disk, self.order, self.n_steps = on_disk, order, n_steps
        self.places, self.kept_idx, self.most_rows = places, kept_idx, 0
        self._kept: Block = None
        self._stack = ExitStack()
        self._present: Buffer | None = None
        self._load: Load | None = None
        self._next: tuple[Buffer, Future[Load | None]] | None = None
        self._stopped = False

    def __enter__(self) -> "Feed":
        self._read: Callable[[np.ndarray], Block] = self._stack.enter_context(self.on_disk.opened())
        self._thread = self._stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="cells"))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped = True
        self._load = self._next = self._kept = None
        self._stack.close()

    @property
    def values_ng(self) -> "Feed":
        return self

    def batch(self, step: int) -> np.ndarray:
        """Rows of the minibatch of ``step``, whose buffer is in memory from now on.

        Raises:
            InputError: the file is gone or broken.
        """
        if self._present is None or not self._present.first <= step < self._present.last:
            self._turn(step)
        return self.order.batch(step)

    @property
    def at_hand(self) -> np.ndarray:
        assert self._present is not None
        return self._present.idx_n

    def rows(self, idx_n: np.ndarray) -> Block:
        """Rows from the buffer or from those that are kept; from the file where one of them is in neither."""
        at_n, there_n = _positions(None if self._present is None else self._present.idx_n, idx_n)
        if self._load is not None and there_n.all():
            return self._load.block[at_n]
        at_n, there_n = _positions(self.kept_idx, idx_n)
        if not there_n.all():
            return self.on_disk.rows(idx_n)
        if self._kept is None:
            self._kept = self.on_disk.rows(self.kept_idx)
        return self._kept[at_n]

    def stand_ins(self, idx_n: np.ndarray, pick_n: np.ndarray) -> np.ndarray:
        """The picked neighbour of each cell; the cell itself where none is picked, or it is not in the buffer."""
        assert self._load is not None and self._load.near_nk is not None
        at_n, there_n = _positions(self.at_hand, idx_n)
        k = self._load.near_nk.shape[1]
        neighbour_n = self.at_hand[self._load.near_nk[at_n, pick_n.clip(max=k - 1)]]
        return np.where((pick_n < k) & there_n, neighbour_n, idx_n)

    def _turn(self, step: int) -> None:
        wanted = self.order.buffer_at(step)
        if self._next is None or self._next[0].number != wanted.number:
            self._ask(wanted)
        assert self._next is not None
        coming, reading = self._next
        self._present = self._load = None  # before it is waited for: the next one may be all but there
        self._load = reading.result()
        self._present, self._next = coming, None
        if coming.last < self.n_steps:
            self._ask(self.order.buffer_at(coming.last))

    def _ask(self, buffer: Buffer) -> None:
        held = self._present
        if held is not None and np.array_equal(held.idx_n, buffer.idx_n):
            # All training cells fit into one buffer: it stays for good.
            same: Future[Load | None] = Future()
            same.set_result(self._load)
            self._next = buffer, same
            return
        self.most_rows = max(self.most_rows, len(buffer.idx_n) + (0 if held is None else len(held.idx_n)))
        self._next = buffer, self._thread.submit(self._fill, buffer.idx_n)

    def _fill(self, idx_n: np.ndarray) -> Load | None:
        """On the thread: rows in pieces, so that only the chosen genes of most of them are there at a time."""
        pieces = []
        for at in range(0, len(idx_n), PIECE):
            if self._stopped:
                return None
            pieces.append(self._read(idx_n[at : at + PIECE]))
        block = sp.vstack(pieces, format="csr") if sp.issparse(pieces[0]) else np.concatenate(pieces)
        return Load(block, None if self.places is None else self.places.near(idx_n))


def _positions(among: np.ndarray | None, idx_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rows are among others, which ascend, and whether they are."""
    if among is None or not len(among):
        return np.zeros(len(idx_n), int), np.zeros(len(idx_n), bool)
    at_n = np.searchsorted(among, idx_n).clip(max=len(among) - 1)
    return at_n, among[at_n] == idx_n
