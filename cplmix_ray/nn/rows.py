"""The interface of a minibatch of cells, as layers as wide as the genes use it, and shards of a minibatch stacked."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Rows(ABC):
    """n cells x g genes of one arm, dense or sparse; no gradient flows into them.

    Attributes:
        shape: (n, g).
        dtype: type of the values and of matrix products with them.
    """

    shape: tuple[int, int]
    dtype: torch.dtype

    @abstractmethod
    def matmul(self, weight_gh: Tensor) -> Tensor:
        """x W, shape (n, h)."""

    @abstractmethod
    def transposed_matmul(self, d_nh: Tensor) -> Tensor:
        """x' d, shape (g, h)."""

    @abstractmethod
    def dropout(self, rate: float, generators: Sequence[torch.Generator]) -> "Rows":
        """Input dropout: each value is set to 0 with probability ``rate``, and divided by 1 - rate otherwise.

        Args:
            generators: one for each shard of the minibatch that is held here.
        """

    @abstractmethod
    def map_values(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """Apply an elementwise function that leaves zero as it is; it may be given the values in any shape."""

    @abstractmethod
    def to_dtype(self, dtype: torch.dtype) -> "Rows":
        """Convert the values, so that products are computed in that type; results keep the type of the other factor."""

    @abstractmethod
    def scale_rows(self, factor_n: Tensor) -> "Rows":
        """Each cell multiplied by its own factor."""

    @abstractmethod
    def row_sums(self) -> Tensor:
        """Sum over genes, shape (n,)."""

    @abstractmethod
    def row_square_sums(self) -> Tensor:
        """Sum of squares over genes, shape (n,)."""

    @abstractmethod
    def block(self, start: int, stop: int) -> Tensor:
        """Cells from ``start`` to ``stop`` as a dense tensor, shape (stop - start, g)."""

    def dense(self) -> Tensor:
        """All cells as a dense tensor, shape (n, g)."""
        return self.block(0, self.shape[0])


class StackedRows(Rows):
    """Shards of a minibatch that one worker holds, one below the other; each has its own generator."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts, self.dtype = tuple(parts), parts[0].dtype
        self.sizes = [part.shape[0] for part in parts]
        self.shape = (sum(self.sizes), parts[0].shape[1])

    def matmul(self, weight_gh: Tensor) -> Tensor:
        return torch.cat([part.matmul(weight_gh) for part in self.parts])

    def transposed_matmul(self, d_nh: Tensor) -> Tensor:
        products = [part.transposed_matmul(d) for part, d in zip(self.parts, d_nh.split(self.sizes), strict=True)]
        return torch.stack(products).sum(0)

    def dropout(self, rate: float, generators: Sequence[torch.Generator]) -> "StackedRows":
        return StackedRows([part.dropout(rate, [g]) for part, g in zip(self.parts, generators, strict=True)])

    def map_values(self, change: Callable[[Tensor], Tensor]) -> "StackedRows":
        return StackedRows([part.map_values(change) for part in self.parts])

    def to_dtype(self, dtype: torch.dtype) -> "StackedRows":
        return StackedRows([part.to_dtype(dtype) for part in self.parts])

    def scale_rows(self, factor_n: Tensor) -> "StackedRows":
        factors = factor_n.split(self.sizes)
        return StackedRows([part.scale_rows(factor) for part, factor in zip(self.parts, factors, strict=True)])

    def row_sums(self) -> Tensor:
        return torch.cat([part.row_sums() for part in self.parts])

    def row_square_sums(self) -> Tensor:
        return torch.cat([part.row_square_sums() for part in self.parts])

    def block(self, start: int, stop: int) -> Tensor:
        found, first = [], 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                found.append(part.block(low, high))
            first += size
        return torch.cat(found)


def stacked(parts: Sequence[Rows]) -> Rows:
    """One part itself, several as :class:`StackedRows`."""
    return parts[0] if len(parts) == 1 else StackedRows(parts)
