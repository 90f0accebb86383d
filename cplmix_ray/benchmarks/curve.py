"""A score against a setting, over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cplmix_ray.benchmarks.results import COLUMNS, Row, number, value_of
from cplmix_ray.checkpoints.run_folder import write_whole
from cplmix_ray.utils.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SYMBOLS = {
    "model.n_arms": "arms A",
    "objective.lam": "coupling $\\lambda$",
    "model.n_categories": "categories |c|",
    "k_off": "categories |c| - number of types",
}


@dataclass(frozen=True)
class Point:
    """Mean and sample standard deviation (0 for a single run) of a score over the runs at one value of a setting."""

    x: Any
    mean: float
    sd: float
    runs: int


def points_of(rows: Sequence[Row], x: str, by: str, y: str) -> dict[str, list[Point]]:
    """Points of every curve, in the order of x.

    Args:
        x, by: columns, dotted settings, or k_off (see ``value_of``).
        y: a column that holds figures.

    Raises:
        InputError: there is no such column or setting, or nothing to draw.
    """
    if y not in COLUMNS:
        raise InputError(f"Rows have no column '{y}' to draw; they have {', '.join(COLUMNS)}.")
    found: dict[str, dict[Any, list[float]]] = {}
    for row in rows:
        try:
            score = number(row, y)
        except ValueError:
            raise InputError(f"The column '{y}' holds words, not figures to draw; acc is one that does not.") from None
        place = value_of(row, x)
        if score is not None and place is not None:
            place = place if isinstance(place, int | float | str) else str(place)
            found.setdefault(str(value_of(row, by)), {}).setdefault(place, []).append(score)
    if not found:
        raise InputError(f"No row has both {x} and {y}; there is nothing to draw.")
    return {
        name: [
            Point(at, statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0, len(scores))
            for at, scores in sorted(places.items(), key=lambda item: _order(item[0]))
        ]
        for name, places in found.items()
    }


def draw_curves(curves: dict[str, list[Point]], x: str, y: str) -> "Figure":
    """A line with error bars for each curve; x on its axis where it is all numbers, else side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    values = sorted({point.x for points in curves.values() for point in points}, key=_order)
    numeric = all(_is_number(value) for value in values)
    for name, points in curves.items():
        at = [point.x if numeric else values.index(point.x) for point in points]
        means, spread = [point.mean for point in points], [point.sd for point in points]
        panel.errorbar(at, means, yerr=spread, fmt="o-", capsize=3, markersize=4, label=name)
    if not numeric:
        panel.set_xticks(range(len(values)), [str(value) for value in values])
    elif len(values) <= 12:
        panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.set_xlabel(_SYMBOLS.get(x, x))
    panel.set_ylabel(y.upper() if y in ("acc", "ari", "nmi") else y)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """As PNG, PDF or SVG, by the name's ending.

    Raises:
        InputError: the ending is another, or it cannot be written there.
    """
    ending = path.suffix.lower().removeprefix(".")
    if ending not in ("png", "pdf", "svg"):
        raise InputError(f"--out {path} must end in .png, .pdf or .svg.")
    write_whole(path, lambda partial: figure.savefig(partial, dpi=150, format=ending))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, Any]:
    return (False, value) if _is_number(value) else (True, str(value))
