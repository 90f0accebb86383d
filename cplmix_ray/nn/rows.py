"""What a layer as wide as the genes asks of the cells of a minibatch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Rows(ABC):
    """n cells x g genes of one arm; no gradient passes into them.

    Attributes:
        shape: (n, g).
        dtype: type of the values, in which products with them are taken.
    """

    shape: tuple[int, int]
    dtype: torch.dtype

    @abstractmethod
    def times(self, weight_gh: Tensor) -> Tensor:
        """x W, shape (n, h)."""

    @abstractmethod
    def transposed_times(self, d_nh: Tensor) -> Tensor:
        """x' d, shape (g, h)."""

    @abstractmethod
    def hidden(self, rate: float, generators: Sequence[torch.Generator]) -> "Rows":
        """Input dropout: each value is 0 with probability ``rate``, and else divided by the chance to be kept.

        Args:
            generators: one for each share of a minibatch that is held here.
        """

    @abstractmethod
    def changed(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """Every value changed on its own by a function that leaves zero as it is; it is given values in any shape."""

    @abstractmethod
    def in_precision(self, dtype: torch.dtype) -> "Rows":
        """Values of that type, in which products with them are taken; what comes out has the weights' type."""

    @abstractmethod
    def scaled(self, factor_n: Tensor) -> "Rows":
        """Each cell times its own factor."""

    @abstractmethod
    def totals(self) -> Tensor:
        """Sum over genes, shape (n,)."""

    @abstractmethod
    def squares(self) -> Tensor:
        """Sum of squares over genes, shape (n,)."""

    @abstractmethod
    def block(self, start: int, stop: int) -> Tensor:
        """Cells from ``start`` to ``stop``, filled in, shape (stop - start, g)."""

    def dense(self) -> Tensor:
        """All cells, filled in, shape (n, g)."""
        return self.block(0, self.shape[0])
