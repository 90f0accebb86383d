"""Progress of a search: a live table on a terminal, a line for each finished trial elsewhere."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cplmix_ray.utils.progress import duration

if TYPE_CHECKING:
    from cplmix_ray.tuning.records import TrialState


class TuneReporter:
    """Shows the trials of a search.

    Args:
        names: the searched settings.
        n_trials: trials in all.
        steps: steps of one trial.
    """

    def __init__(self, names: Sequence[str], n_trials: int, steps: int, metric: str, mode: str):
        self.names, self.n_trials, self.steps, self.metric, self.mode = tuple(names), n_trials, steps, metric, mode
        self.begun, self.before = time.monotonic(), -1
        self.printed: set[str] = set()
        self.console = Console()
        if not self.console.is_terminal:
            self.console = Console(width=140)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        if self.live is not None:
            self.live.start()

    def show(self, trials: Sequence["TrialState"]) -> None:
        """Show the states of all trials; the first call tells what an earlier process had done."""
        done = sum(self.steps if t.ended else min(self.steps, t.report.get("step", 0)) for t in trials)
        if self.before < 0:
            self.before = done
        ended = sum(t.ended for t in trials)
        left = self._time_left(done)
        if self.live is not None:
            self.live.update(self._table(trials, f"{ended} of {self.n_trials} trials ended{left}"), refresh=True)
            return
        for trial in trials:
            if trial.ended and trial.name not in self.printed:
                self.printed.add(trial.name)
                print(f"[{len(self.printed)}/{self.n_trials}] {self._line(trial)}{left}", flush=True)

    def end(self, trials: Sequence["TrialState"]) -> None:
        """Print the whole table, the best first; a live table stays as it is."""
        if self.live is None:
            self.console.print(self._table(trials, ""))
        self.stop()

    def stop(self) -> None:
        """Give the terminal back."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _time_left(self, done: int) -> str:
        if done <= self.before:
            return ""
        pace = (time.monotonic() - self.begun) / (done - self.before)
        return f"; {duration(pace * max(0, self.n_trials * self.steps - done))} left"

    def _line(self, trial: "TrialState") -> str:
        point = ", ".join(f"{_last_part(name)} {_format(trial.point.get(name))}" for name in self.names)
        if trial.status == "failed":
            return f"trial {trial.name} ({point}) failed: {trial.error}"
        how = "" if trial.status == "done" else f" {trial.status} at step {trial.report.get('step', 0)}"
        return f"trial {trial.name} ({point}){how}: {self.metric} {format_score(trial.report)}"

    def _table(self, trials: Sequence["TrialState"], caption: str) -> Table:
        table = Table(caption=caption or None, box=None, pad_edge=False, header_style="bold")
        shown = ("consensus", "populated", "seconds")
        for heading in ("trial", "status", *map(_last_part, self.names), "step", self.metric, *shown):
            table.add_column(heading, justify="left" if heading == "status" else "right", overflow="fold")
        sign = -1.0 if self.mode == "max" else 1.0

        def rank(trial: "TrialState") -> tuple:
            score = trial.report.get("score")
            return (score is None, sign * (score or 0.0), trial.name)

        for trial in sorted(trials, key=rank):
            report = trial.report
            figures = [_format(report.get(name)) for name in shown]
            status = f"failed: {trial.error}" if trial.status == "failed" else trial.status
            point = [_format(trial.point.get(name)) for name in self.names]
            table.add_row(trial.name, status, *point, str(report.get("step", 0)), format_score(report), *figures)
        return table


def format_score(report: dict[str, Any]) -> str:
    """A score, with its standard deviation over seeds where there are several."""
    if report.get("score") is None:
        return "-"
    spread = report.get("score_sd")
    return f"{report['score']:.4f}" + (f" +- {spread:.4f}" if spread is not None else "")


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _format(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
