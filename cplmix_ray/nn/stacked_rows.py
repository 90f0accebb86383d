"""Rows in several parts, one below the other."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cplmix_ray.nn.rows import Rows


class StackedRows(Rows):
    """Shares of a minibatch that one worker holds together; each keeps its own randomness."""

    def __init__(self, parts: Sequence[Rows]):
        self.parts, self.dtype = tuple(parts), parts[0].dtype
        self.sizes = [part.shape[0] for part in parts]
        self.shape = (sum(self.sizes), parts[0].shape[1])

    def times(self, weight_gh: Tensor) -> Tensor:
        return torch.cat([part.times(weight_gh) for part in self.parts])

    def transposed_times(self, d_nh: Tensor) -> Tensor:
        products = [part.transposed_times(d) for part, d in zip(self.parts, d_nh.split(self.sizes), strict=True)]
        return torch.stack(products).sum(0)

    def hidden(self, rate: float, generators: Sequence[torch.Generator]) -> "StackedRows":
        return StackedRows([part.hidden(rate, [g]) for part, g in zip(self.parts, generators, strict=True)])

    def changed(self, change: Callable[[Tensor], Tensor]) -> "StackedRows":
        return StackedRows([part.changed(change) for part in self.parts])

    def in_precision(self, dtype: torch.dtype) -> "StackedRows":
        return StackedRows([part.in_precision(dtype) for part in self.parts])

    def scaled(self, factor_n: Tensor) -> "StackedRows":
        factors = factor_n.split(self.sizes)
        return StackedRows([part.scaled(factor) for part, factor in zip(self.parts, factors, strict=True)])

    def totals(self) -> Tensor:
        return torch.cat([part.totals() for part in self.parts])

    def squares(self) -> Tensor:
        return torch.cat([part.squares() for part in self.parts])

    def block(self, start: int, stop: int) -> Tensor:
        found, first = [], 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                found.append(part.block(low, high))
            first += size
        return torch.cat(found)


def stacked(parts: Sequence[Rows]) -> Rows:
    """One part as it is, several one below the other."""
    return parts[0] if len(parts) == 1 else StackedRows(parts)
