"""Where the loop has its cells from, and which ones are at hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cplmix_ray.augmentations.build import StandIns
from cplmix_ray.config import Config
from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.source import Values
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.training.prefetch import Feed
from cplmix_ray.training.sampler import BlockOrder, CellOrder


class Supply(Protocol):
    """Where the loop has its cells from.

    Attributes:
        values_ng: what rows are taken from while the minibatch is at work.
    """

    @property
    def values_ng(self) -> Values: ...

    def batch(self, step: int) -> np.ndarray:
        """Rows of the minibatch of ``step``, shape (batch_size,)."""

    @property
    def at_hand(self) -> np.ndarray:
        """Training cells that can be had at once."""

    @property
    def stand_ins(self) -> StandIns | None:
        """Picks neighbours where cells stay on disk; None elsewhere."""


@contextmanager
def open_supply(data: TrainingSet, config: Config) -> Iterator[Supply]:
    """The training cells in the order of their minibatches; nothing is left open behind it."""
    training = config.training
    if not isinstance(data.values_ng, RowsOnDisk):
        yield Held(data.values_ng, CellOrder(data.train_idx, training.batch_size, config.seed))
        return
    order = BlockOrder(data.train_idx, training.batch_size, config.seed, data.values_ng.buffer_cells)
    n_steps = training.steps(len(data.train_idx))
    with Feed(data.values_ng, order, data.val_idx, n_steps, data.places) as feed:
        yield feed


@dataclass(frozen=True)
class Held:
    """Cells that are all in memory, or made on demand."""

    values_ng: Values
    order: CellOrder

    def batch(self, step: int) -> np.ndarray:
        return self.order.batch(step)

    @property
    def at_hand(self) -> np.ndarray:
        return self.order.train_idx

    @property
    def stand_ins(self) -> None:
        return None
