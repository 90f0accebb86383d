"""Output of a benchmark: one line per finished run, and tables at the end."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cplmix_ray.metrics.registry import names_in
from cplmix_ray.utils.progress import duration

if TYPE_CHECKING:
    import pandas as pd

    from cplmix_ray.benchmarks.runs import BenchmarkRun

_SPEED = {
    "step_ms": "ms a step",
    "first_step_ms": "first step",
    "cells_per_s": "cells/s",
    "gflops": "GFLOP/s",
    "of_peak": "of peak",
    "times_as_fast": "times as fast as plain (quartiles)",
    "memory_mb": "MB",
    "plain_memory_mb": "MB, plain",
    "sent_bytes": "bytes sent",
    "wait_ms": "ms waited",
    "times_alone": "times one arm's",
}
"""Columns of the table of speed and their headings."""


class BenchmarkProgress:
    """Prints a line for each finished run, with the estimated time for the rest.

    Args:
        n: runs to do.
    """

    def __init__(self, n: int):
        self.n, self.done, self.begun = n, 0, time.monotonic()

    def __call__(self, run: "BenchmarkRun", result: dict[str, Any] | str) -> None:
        self.done += 1
        left = (time.monotonic() - self.begun) / self.done * (self.n - self.done)
        end = f"; {duration(left)} left" if self.done < self.n else ""
        if isinstance(result, str):
            print(f"[{self.done}/{self.n}] {run} failed: {result}{end}", flush=True)
            return
        shown = ", ".join(f"{k} {result[k]:.4g}" for k in names_in("benchmark") if result.get(k) is not None)
        print(f"[{self.done}/{self.n}] {run}: {shown} ({result['seconds']:.1f} s){end}", flush=True)


def print_summary(rows: "pd.DataFrame") -> None:
    """Print the mean and standard deviation over seeds of every score."""
    from cplmix_ray.benchmarks.results import COLUMNS, summarize

    figures = [name for name in COLUMNS if name in (*names_in("benchmark"), "seconds")]
    found = summarize(rows, figures)
    words = [name for name in found if name not in figures and (name != "settings" or found["settings"].any())]
    headings = ["K" if name == "n_categories" else name for name in words]
    print_table(headings, figures, found[[*words, *figures]].astype(str).to_numpy())


def recipe_tables(ranking: "pd.DataFrame") -> None:
    """Print the ranking of recipes over all cell sets and over those of each part."""
    from cplmix_ray.benchmarks.recipes import text_of

    figures = ("sets", "mean ARI", "mean ACC", "mean rank", "sets below median", "ARI minus best")
    for part, table in ranking.groupby("part", sort=False):
        print(f"Recipes over the cell sets: {part}")
        print_table(("recipe",), figures, [list(map(text_of, row[1:])) for row in table.itertuples(index=False)])


def rank_table(rankings: "pd.DataFrame") -> None:
    """Print the rank correlation of every score with the accuracy, and the accuracy of the run with the best score."""
    figures = ("runs", "Spearman with ACC", "ACC of best by score", "mean ACC", "best ACC")
    lines = []
    for row in rankings.itertuples():
        numbers = (row.spearman_acc, row.picked_acc, row.mean_acc, row.best_acc)
        name = row.score if row.best_is == "high" else f"-{row.score}"
        lines.append((name, row.data, str(row.runs), *("-" if x != x else f"{x:.3f}" for x in numbers)))
    print_table(("score", "data"), figures, lines)


def speed_table(rows: "pd.DataFrame", settings: Sequence[str]) -> None:
    """Print settings that all rows share in one line, the rest in a table; empty columns are omitted."""
    varied = [name for name in settings if rows[name].nunique() > 1]
    common = ", ".join(f"{name} {rows[name].iloc[0]}" for name in settings if name not in varied)
    print(f"Common to all: {common}.")
    figures = [name for name in _SPEED if rows[name].any()]
    lines = [[*row[varied], *(_speed_figure(row, name) for name in figures)] for _, row in rows.iterrows()]
    print_table(varied, [_SPEED[name] for name in figures], lines)


def _speed_figure(row: "pd.Series", name: str) -> str:
    if not row[name]:
        return "-"
    if name == "times_as_fast":
        middle, low, high = (f"{float(row[each]):.3g}" for each in (name, f"{name}_low", f"{name}_high"))
        return f"{middle} ({low}-{high})"
    value = float(row[name])
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def print_table(words: Sequence[str], figures: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print columns of text and columns of numbers; without a terminal, wide rows are not wrapped."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)
