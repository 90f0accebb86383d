"""How a benchmark looks: a line for each run that ended, and tables at the end."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cplmix_ray.cli.progress import duration

if TYPE_CHECKING:
    from cplmix_ray.benchmarks.jobs import Job
    from cplmix_ray.benchmarks.rank import Ranking

_SHOWN = ("acc", "ari", "nmi", "consensus", "agreement", "populated", "seconds")


class Progress:
    """Tells of each run that ended, and how long the rest may take.

    Args:
        n: runs to do.
    """

    def __init__(self, n: int):
        self.n, self.done, self.begun = n, 0, time.monotonic()

    def __call__(self, job: "Job", result: dict[str, Any] | str) -> None:
        self.done += 1
        left = (time.monotonic() - self.begun) / self.done * (self.n - self.done)
        end = f"; {duration(left)} left" if self.done < self.n else ""
        if isinstance(result, str):
            print(f"[{self.done}/{self.n}] {job} failed: {result}{end}", flush=True)
            return
        shown = [(name, result.get(name)) for name in ("acc", "ari", "nmi", "consensus", "populated")]
        words = ", ".join(f"{name} {value:.4g}" for name, value in shown if value is not None)
        print(f"[{self.done}/{self.n}] {job}: {words} ({result['seconds']:.1f} s){end}", flush=True)


def summary(rows: Sequence[dict[str, str]]) -> None:
    """Mean and standard deviation over the seeds of everything measured."""
    from cplmix_ray.benchmarks.results import group_of
    from cplmix_ray.benchmarks.table import groups_of, mean_sd, varied

    groups = groups_of(rows)
    words = varied(groups)
    table = plain_table(("name", *(["settings"] if any(words.values()) else []), "data", "method", "K", "runs"), _SHOWN)
    for group in groups:
        settings = [words[group_of(group.rows[0])]] if any(words.values()) else []
        figures = [mean_sd(group, column) for column in _SHOWN]
        names = (group["name"], *settings, group["data"], group["method"], group["n_categories"])
        table.add_row(*names, str(len(group.rows)), *figures)
    show(table)


def rank_table(found: Sequence["Ranking"]) -> None:
    """Rank correlations of every score with the accuracy, and what the run with the best score has."""
    from cplmix_ray.benchmarks.rank import SCORES

    figures = ("runs", "Spearman with ACC", "ACC of best by score", "mean ACC", "best ACC")
    table = plain_table(("score", "data"), figures)
    for each in found:
        rho = "-" if each.rho is None else f"{each.rho:.3f}"
        accuracies = [f"{value:.3f}" for value in (each.picked, each.mean, each.best)]
        name = each.score if SCORES[each.score] > 0 else f"-{each.score}"
        table.add_row(name, each.data, str(each.runs), rho, *accuracies)
    show(table)


def plain_table(words: Sequence[str], figures: Sequence[str]) -> Table:
    """An empty table with columns for words and columns for figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in words:
        table.add_column(heading, overflow="fold")
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def show(table: Table) -> None:
    """Not folded to a screen where there is none."""
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(table)
