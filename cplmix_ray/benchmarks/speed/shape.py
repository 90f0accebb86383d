"""The shape of a step that is timed, and the arithmetic in it."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cplmix_ray.config import Config
from cplmix_ray.config.arms import Precision

Storage = Literal["dense", "sparse"]


@dataclass(frozen=True)
class Shape:
    """What a step is made of; the defaults are the published size at 115 types.

    Attributes:
        cells, genes: of a minibatch, n x g.
        density: share of the values that are not zero; 1 is a dense matrix, less is kept sparse.
        dropout: share of the inputs hidden from the encoder.
    """

    cells: int = 1000
    genes: int = 5032
    n_categories: int = 115
    state_dim: int = 2
    hidden: tuple[int, ...] = (100, 100, 100, 100)
    bottleneck: int = 10
    n_arms: int = 2
    density: float = 1.0
    dropout: float = 0.5
    precision: Precision = "float32"

    def config(self, **placement) -> Config:
        """Settings of a run of that shape with the published objective, on cells as they are."""
        return Config.model_validate(
            {
                "copies": {"copies": ["none"]},
                "model": {
                    "n_categories": self.n_categories,
                    "n_arms": self.n_arms,
                    "state_dim": self.state_dim,
                    "hidden": list(self.hidden),
                    "bottleneck": self.bottleneck,
                    "input_dropout": self.dropout,
                },
                "training": {"batch_size": self.cells, "lr": 1e-3, "max_steps": 1_000_000},
                "placement": {"precision": self.precision, **placement},
            }
        )

    def plain_flop(self) -> float:
        """Multiplications and additions in the matrix products of a step as one would write it first.

        A layer has three products, the first layer two, as no gradient goes into the cells.
        """
        return self.n_arms * (5 * self._gene_product(1.0) + self._inner_flop())

    def needed_flop(self) -> float:
        """The same of the step as it is done here: the output layer meets the cells in two products and not in three,
        and what is zero in sparse cells is left out."""
        last = self.hidden[0]
        gram = 2 * 2.0 * (self.genes + self.cells) * last * last  # W'W and h'h, and their products with h and W
        return self.n_arms * (4 * self._gene_product(self.density) + gram + self._inner_flop())

    def _gene_product(self, density: float) -> float:
        return 2.0 * self.cells * self.genes * self.hidden[0] * density

    def _inner_flop(self) -> float:
        k, d, b = self.n_categories, self.state_dim, self.bottleneck
        encoder = [*self.hidden, b]
        decoder = [k + d, b, *reversed(self.hidden)]
        pairs = [*pairwise(encoder), *pairwise(decoder), (b, k), (b + k, 2 * d)]
        return 3 * 2.0 * self.cells * sum(i * o for i, o in pairs)
