"""Cases of `bench speed`: shape and placement of a training step, one row of the results for each."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

from cplmix_ray.config import Placement
from cplmix_ray.config.placement import Precision
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.version import __version__

EngineName = Literal["local", "ray"]
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Shape:
    """Shape of a training step; the defaults are the published size with 115 types.

    Attributes:
        cells, genes: size of a minibatch, n x g.
        density: share of nonzero values; 1 for a dense matrix, less for a sparse one.
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

    def config(self, **placement) -> CplMixVAEConfig:
        """Settings of a run of this shape with the published objective and without augmentation."""
        return CplMixVAEConfig.model_validate(
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
        """Multiplications and additions in the matrix products of a plain step.

        Three products a layer, two in the first layer, as the cells need no gradient.
        """
        return self.n_arms * (5 * self._gene_product(1.0) + self._inner_flop())

    def needed_flop(self) -> float:
        """The same for the package's step: two products with the cells in the output layer, and none with zeros of
        sparse cells."""
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


PLACEMENT = ("engine", "device", "threads", "rounds")
SETTINGS = (*PLACEMENT, *(field.name for field in fields(Shape)))
MEASURED = (
    *("chip", "workers", "step_ms", "first_step_ms", "cells_per_s", "needed_gflop", "gflops", "peak_gflops", "of_peak"),
    *("plain_ms", "plain_gflops", "times_as_fast", "times_as_fast_low", "times_as_fast_high"),
    *("memory_mb", "plain_memory_mb", "sent_bytes", "wait_ms", "wait_share", "alone_ms", "times_alone"),
)
KEY = ("version", *SETTINGS)
"""Columns that identify a case."""
COLUMNS = (*KEY, *MEASURED)
"""Columns of a file; docs/speed.md defines them."""


@dataclass(frozen=True)
class Case:
    """A step of some shape on some engine and device.

    Attributes:
        engine: local: all arms in this process; ray: on as many Ray actors as there are devices for.
        device: 'cpu' or 'cuda'; auto is resolved before a case is measured.
        threads: torch threads of a process.
        rounds: repetitions; in each, all that is compared takes a turn.
    """

    shape: Shape
    engine: EngineName = "local"
    device: DeviceName = "auto"
    threads: int = 1
    rounds: int = 7

    @property
    def placement(self) -> Placement:
        """Placement of a run; a lost worker is an error, as a restart would be timed too."""
        return Placement(engine=self.engine, device=self.device, threads=self.threads, max_failures=0)

    @property
    def settings(self) -> dict[str, Any]:
        """Values of the columns of ``KEY``."""
        placement = {name: getattr(self, name) for name in PLACEMENT}
        hidden = " ".join(str(width) for width in self.shape.hidden)
        return {"version": __version__, **placement, **vars(self.shape), "hidden": hidden}

    @property
    def key(self) -> tuple[str, ...]:
        """Identifies the case; its row has the same."""
        return tuple(f"{v:.6g}" if isinstance(v, float) else str(v) for v in self.settings.values())

    def __str__(self) -> str:
        shape = self.shape
        return (
            f"{self.engine}, {self.device}, threads {self.threads}: {shape.cells} cells x {shape.genes} genes, "
            f"K = {shape.n_categories}, arms {shape.n_arms}, density {shape.density:g}, {shape.precision}"
        )


def cases_of(case: Case, over: Mapping[str, Sequence[Any]]) -> Iterator[Case]:
    """All combinations of the values of some settings, the others as in ``case``."""
    for values in itertools.product(*over.values()):
        chosen = dict(zip(over, values, strict=True))
        own = {name: chosen.pop(name) for name in PLACEMENT if name in chosen}
        yield replace(case, shape=replace(case.shape, **chosen), **own)
