"""The copies of a minibatch that all arms of a worker see."""

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from cplmix_ray.nn.dense_rows import DenseRows
from cplmix_ray.nn.rows import Rows

Cells: TypeAlias = Tensor | Sequence[Rows]
"""The rows of each arm, or a tensor (A, n, g)."""


def rows_of_arms(cells: Cells) -> tuple[Rows, ...]:
    """Each arm's rows."""
    return tuple(DenseRows(x_ng) for x_ng in cells) if isinstance(cells, Tensor) else tuple(cells)
