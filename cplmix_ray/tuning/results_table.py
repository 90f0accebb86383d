"""The trials as rows: results.csv, always whole and up to date, and which row is the best."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cplmix_ray.checkpoints.run_folder import write_whole
from cplmix_ray.tuning.hparams import write_hparams
from cplmix_ray.tuning.records import read_failure, write_entry
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.trial_runner import REPORTED
from cplmix_ray.tuning.trial_state import TrialState
from cplmix_ray.utils.errors import DiskError, InputError

_FIGURES = ("score", "score_sd", "scores", "runs", "step", "seconds", *REPORTED)

Row = dict[str, Any]


def row_of(state: TrialState) -> Row:
    """One trial as a row: its name and status, its point, its figures, and why it failed."""
    figures = {name: state.report.get(name) for name in _FIGURES}
    return {"trial": state.name, "status": state.status, **state.point, **figures, "error": state.error}


def best_of(states: Sequence[TrialState], mode: str) -> TrialState | None:
    """The trial with the best score among those that ran all their seeds to the end; None where there is none."""
    finished = [state for state in states if state.status == "done" and state.report.get("score") is not None]
    choose = max if mode == "max" else min
    return choose(finished, key=lambda state: state.report["score"]) if finished else None


class Ledger:
    """Listens to a search and keeps its files.

    Args:
        names: the searched settings, in the order of their columns.
        show: told the states after every change.
        before: trials that an earlier process has started; their rows stay whatever happens.
        say: told once when the files cannot be written, and once when they can be again.
    """

    def __init__(
        self,
        folder: SearchFolder,
        names: Sequence[str],
        show: Callable[[Sequence[TrialState]], None],
        before: Sequence[TrialState] = (),
        say: Callable[[str], None] = lambda line: None,
    ):
        self.folder, self.names, self.show, self.say = folder, tuple(names), show, say
        self.states = {state.name: state for state in before}
        self.told: dict[str, str] = {}
        self.news: set[str] = set()
        self.kept: dict[str, tuple] = {}
        self.refused = False

    @property
    def trials(self) -> list[TrialState]:
        """All trials, by their names."""
        return [self.states[name] for name in sorted(self.states)]

    def __call__(self, trials: Sequence[TrialState]) -> None:
        """Take the news in; what the disk refuses is kept in mind, and written after the next news."""
        self._hear(trials)
        try:
            self._write()
        except (InputError, DiskError) as error:
            if not self.refused:
                self.say(f"{error} The search goes on, and writes it when it can.")
            self.refused = True
        else:
            if self.refused:
                self.say(f"What there was to write for the search is written to {self.folder.path}.")
            self.refused = False
        self.show(self.trials)

    def close(self, trials: Sequence[TrialState]) -> None:
        """Take the last news in.

        Raises:
            InputError, DiskError: they cannot be written.
        """
        self._hear(trials)
        self._write()
        self.show(self.trials)

    def _hear(self, trials: Sequence[TrialState]) -> None:
        for state in map(self._told, trials):
            earlier = self.states.get(state.name)
            # Before a trial that goes on has told anything new, what it had reached stands.
            self.states[state.name] = (
                state if state.report or earlier is None else replace(state, report=earlier.report)
            )
            self.news.add(state.name)

    def _write(self) -> None:
        for name in sorted(self.news):
            self._keep(self.states[name])
        self.news.clear()
        for state in self.trials:
            if state.ended and self.told.get(state.name) != state.status:
                write_hparams(self.folder.trial(state.name).tensorboard, state)
            self.told[state.name] = state.status
        self.write(self.trials)

    def _told(self, state: TrialState) -> TrialState:
        """With the trial's own words for why it failed, which Ray Tune wraps, or passes on later."""
        failure = read_failure(self.folder.trial(state.name)) if state.status == "failed" else None
        return state if failure is None else replace(state, error=failure.reason)

    def _keep(self, state: TrialState) -> None:
        now = (state.status, state.point, state.error)
        if state.status != "waiting" and self.kept.get(state.name) != now:
            write_entry(self.folder.trial(state.name), state)
            self.kept[state.name] = now

    def write(self, trials: Sequence[TrialState]) -> None:
        """Write results.csv anew."""
        columns = ["trial", "status", *self.names, *_FIGURES, "error"]
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(row_of(state) for state in sorted(trials, key=lambda state: state.name))

        def write(path: Path) -> None:
            path.write_text(text.getvalue(), encoding="utf-8")

        write_whole(self.folder.results, write)
