"""How a search looks while it goes on: a live table on a terminal, a line for each finished trial elsewhere."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cplmix_ray.cli.progress import duration

if TYPE_CHECKING:
    from cplmix_ray.tuning.trial_state import TrialState


class Board:
    """Shows the trials of a search.

    Args:
        names: the searched settings.
        n_trials: trials in all.
        steps: steps of one trial.
    """

    def __init__(self, names: Sequence[str], n_trials: int, steps: int, metric: str, mode: str):
        self.names, self.n_trials, self.steps, self.metric, self.mode = tuple(names), n_trials, steps, metric, mode
        self.begun, self.before = time.monotonic(), -1
        self.told: set[str] = set()
        self.console = Console()
        if not self.console.is_terminal:
            self.console = Console(width=140)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        if self.live is not None:
            self.live.start()

    def show(self, trials: Sequence["TrialState"]) -> None:
        """Show trials as they stand; the first call tells what an earlier process had done."""
        done = sum(self.steps if t.ended else min(self.steps, t.report.get("step", 0)) for t in trials)
        if self.before < 0:
            self.before = done
        ended = sum(t.ended for t in trials)
        left = self._left(done)
        if self.live is not None:
            self.live.update(self._table(trials, f"{ended} of {self.n_trials} trials ended{left}"), refresh=True)
            return
        for trial in trials:
            if trial.ended and trial.name not in self.told:
                self.told.add(trial.name)
                print(f"[{len(self.told)}/{self.n_trials}] {self._words(trial)}{left}", flush=True)

    def end(self, trials: Sequence["TrialState"]) -> None:
        """Leave the whole table on the screen, the best first."""
        if self.live is not None:
            self.live.stop()
            self.live = None
            return
        self.console.print(self._table(trials, ""))

    def stop(self) -> None:
        """Give the terminal back."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _left(self, done: int) -> str:
        if done <= self.before:
            return ""
        pace = (time.monotonic() - self.begun) / (done - self.before)
        return f"; {duration(pace * max(0, self.n_trials * self.steps - done))} left"

    def _words(self, trial: "TrialState") -> str:
        point = ", ".join(f"{_bare(name)} {_value(trial.point.get(name))}" for name in self.names)
        if trial.status == "failed":
            return f"trial {trial.name} ({point}) failed: {trial.error}"
        how = "" if trial.status == "done" else f" {trial.status} at step {trial.report.get('step', 0)}"
        return f"trial {trial.name} ({point}){how}: {self.metric} {score_words(trial.report)}"

    def _table(self, trials: Sequence["TrialState"], caption: str) -> Table:
        table = Table(caption=caption or None, box=None, pad_edge=False, header_style="bold")
        for heading in (
            "trial",
            "status",
            *(_bare(name) for name in self.names),
            "step",
            self.metric,
            "consensus",
            "populated",
            "seconds",
        ):
            table.add_column(heading, justify="left" if heading == "status" else "right", overflow="fold")
        sign = -1.0 if self.mode == "max" else 1.0

        def rank(trial: "TrialState") -> tuple:
            score = trial.report.get("score")
            return (score is None, sign * (score or 0.0), trial.name)

        for trial in sorted(trials, key=rank):
            report = trial.report
            figures = [_value(report.get(name)) for name in ("consensus", "populated", "seconds")]
            status = f"failed: {trial.error}" if trial.status == "failed" else trial.status
            point = [_value(trial.point.get(name)) for name in self.names]
            table.add_row(trial.name, status, *point, str(report.get("step", 0)), score_words(report), *figures)
        return table


def score_words(report: dict[str, Any]) -> str:
    """A score with its spread over seeds, where there are several."""
    if report.get("score") is None:
        return "-"
    spread = report.get("score_sd")
    return f"{report['score']:.4f}" + (f" +- {spread:.4f}" if spread is not None else "")


def _bare(name: str) -> str:
    return name.rpartition(".")[2]


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
