"""Figure of a score against a setting, with the spread over runs."""

from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cplmix_ray.benchmarks.results import COLUMNS, values_of
from cplmix_ray.metrics.registry import label_of
from cplmix_ray.utils.durable import write_whole
from cplmix_ray.utils.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SYMBOLS = {
    "model.n_arms": "arms A",
    "objective.lam": "coupling $\\lambda$",
    "model.n_categories": "categories |c|",
    "k_off": "categories |c| - number of types",
}


def curve_points(rows: pd.DataFrame, x: str, by: str, y: str) -> pd.DataFrame:
    """Mean and sample standard deviation (0 for a single run) of a score at each value of a setting.

    Args:
        x, by: columns, dotted settings, or k_off (see ``values_of``); a curve for each value of ``by``.
        y: a column of numbers.

    Returns:
        Columns curve, x, mean, sd and runs, in the order of x within each curve: numbers, then words.

    Raises:
        InputError: there is no such column or setting, or nothing to draw.
    """
    if y not in COLUMNS:
        raise InputError(f"Rows have no column '{y}' to draw; they have {', '.join(COLUMNS)}.")
    try:
        scores = pd.to_numeric(rows[y])
    except ValueError:
        raise InputError(f"The column '{y}' holds words, not figures to draw; acc is one that does not.") from None
    runs = pd.DataFrame({"x": values_of(rows, x).astype(object), "score": scores}).dropna()
    if runs.empty:
        raise InputError(f"No row has both {x} and {y}; there is nothing to draw.")
    runs["x"] = [value if isinstance(value, int | float | str) else str(value) for value in runs["x"]]
    runs["curve"] = values_of(rows, by).astype(object).map(str)
    points = runs.groupby(["curve", "x"], sort=False)["score"].agg(["mean", "std", "count"]).reset_index()
    points.columns = pd.Index(["curve", "x", "mean", "sd", "runs"])
    order = {name: place for place, name in enumerate(runs["curve"].unique())}
    at = sorted(points.index, key=lambda i: (order[points["curve"][i]], _order(points["x"][i])))
    return points.fillna({"sd": 0.0}).loc[at].reset_index(drop=True)


def draw_curves(points: pd.DataFrame, x: str, y: str) -> "Figure":
    """A line with error bars for each curve; x on its axis if all are numbers, else at equal distances."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    values = sorted(points["x"].unique(), key=_order)
    numeric = all(_is_number(value) for value in values)
    for name, curve in points.groupby("curve", sort=False):
        at = [value if numeric else values.index(value) for value in curve["x"]]
        panel.errorbar(at, curve["mean"], yerr=curve["sd"], fmt="o-", capsize=3, markersize=4, label=name)
    if not numeric:
        panel.set_xticks(range(len(values)), [str(value) for value in values])
    elif len(values) <= 12:
        panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.set_xlabel(_SYMBOLS.get(x, x))
    panel.set_ylabel(label_of(y))
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, PDF or SVG, by the suffix of the name.

    Raises:
        InputError: the suffix is another, or the file cannot be written.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in ("png", "pdf", "svg"):
        raise InputError(f"--out {path} must end in .png, .pdf or .svg.")
    write_whole(path, lambda partial: figure.savefig(partial, dpi=150, format=suffix))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _order(value: Any) -> tuple[bool, Any]:
    return (False, value) if _is_number(value) else (True, str(value))
