"""Rows put together over seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cplmix_ray.benchmarks.results import Row, group_of, number


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone."""

    rows: tuple[Row, ...]

    def __getitem__(self, column: str) -> str:
        return self.rows[0][column]

    def mean(self, column: str) -> float | None:
        """None where no run has the figure."""
        values = self._values(column)
        return statistics.fmean(values) if values else None

    def sd(self, column: str) -> float | None:
        """Sample standard deviation; None for a single run."""
        values = self._values(column)
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, column: str) -> list[float]:
        return [value for row in self.rows if (value := number(row, column)) is not None]


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """Rows by what they have in common, in the order in which the first of each came."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(group_of(row), []).append(row)
    return [Group(tuple(members)) for members in found.values()]


def varied(groups: Sequence[Group]) -> Mapping[tuple[str, ...], str]:
    """Of each group, the settings that not all groups of its name have: what an entry compares."""
    by_name: dict[str, list[set[str]]] = {}
    for group in groups:
        by_name.setdefault(group["name"], []).append(set(group["settings"].split(" ")))
    return {
        group_of(group.rows[0]): " ".join(
            word for word in group["settings"].split(" ") if word not in set.intersection(*by_name[group["name"]])
        )
        for group in groups
    }


def mean_sd(group: Group, column: str) -> str:
    """A mean with its spread over seeds, in words for a table."""
    mean, sd = group.mean(column), group.sd(column)
    if mean is None or math.isnan(mean):
        return "-"
    return f"{mean:.4g}" if sd is None else f"{mean:.3f} +- {sd:.3f}"
