"""What is timed, one row of the results for each, and the names of what is measured of it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.config import Placement
from cplmix_ray.version import __version__

Where = Literal["local", "ray"]
Device = Literal["auto", "cpu", "cuda"]

SETTINGS = ("engine", "device", "threads", "rounds", *(field.name for field in fields(Shape)))
MEASURED = (
    *("chip", "workers", "step_ms", "first_step_ms", "cells_per_s", "needed_gflop", "gflops", "peak_gflops", "of_peak"),
    *("plain_ms", "plain_gflops", "times_as_fast", "times_as_fast_low", "times_as_fast_high"),
    *("memory_mb", "plain_memory_mb", "sent_bytes", "wait_ms", "wait_share", "alone_ms", "times_alone"),
)
COLUMNS = ("version", *SETTINGS, *MEASURED)
"""docs/speed.md says what each of them is."""


@dataclass(frozen=True)
class Case:
    """A step of some shape in some place.

    Attributes:
        engine: local: all arms in this process. ray: on Ray actors, as many as there are devices for.
        device: 'cpu' or 'cuda'; auto is resolved before a case is measured.
        threads: torch threads of a process.
        rounds: how often what is compared takes turns.
    """

    shape: Shape
    engine: Where = "local"
    device: Device = "auto"
    threads: int = 1
    rounds: int = 7

    @property
    def placement(self) -> Placement:
        """As a run there would be asked for; a worker that is lost is not replaced, as that would be timed too."""
        return Placement(engine=self.engine, device=self.device, threads=self.threads, max_failures=0)

    @property
    def settings(self) -> dict[str, Any]:
        """By their columns."""
        hidden = " ".join(str(width) for width in self.shape.hidden)
        return {
            "version": __version__,
            "engine": self.engine,
            "device": self.device,
            "threads": self.threads,
            "rounds": self.rounds,
            **vars(self.shape),
            "hidden": hidden,
        }

    @property
    def key(self) -> tuple[str, ...]:
        """Tells it from all other cases; its row has the same."""
        return tuple(f"{v:.6g}" if isinstance(v, float) else str(v) for v in self.settings.values())

    def __str__(self) -> str:
        of = self.shape
        return (
            f"{self.engine}, {self.device}, threads {self.threads}: {of.cells} cells x {of.genes} genes, "
            f"K = {of.n_categories}, arms {of.n_arms}, density {of.density:g}, {of.precision}"
        )


def key_of(row: Mapping[str, str]) -> tuple[str, ...]:
    """As ``Case.key``."""
    return tuple(row[name] for name in ("version", *SETTINGS))


def cases_of(case: Case, over: Mapping[str, Sequence[Any]]) -> Iterator[Case]:
    """All combinations of the values of some settings, the others as in ``case``."""
    for values in itertools.product(*over.values()):
        chosen = dict(zip(over, values, strict=True))
        own = {name: chosen.pop(name) for name in ("engine", "device", "threads", "rounds") if name in chosen}
        yield replace(case, shape=replace(case.shape, **chosen), **own)
