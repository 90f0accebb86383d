"""The table of a search's trials: results.csv, trial.json and TensorBoard's HPARAMS page, kept up to date."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from cplmix_ray.metrics.registry import names_in
from cplmix_ray.runs.event_file import ScalarFile
from cplmix_ray.tuning.records import TrialState, read_failure, write_record
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.utils.durable import write_whole
from cplmix_ray.utils.errors import DiskError, InputError

_COLUMNS = ("score", "score_sd", "scores", "runs", "step", "seconds", *names_in("trials"))


class ResultsTable:
    """Holds the states of all trials and keeps the files of a search up to date.

    Args:
        names: the searched settings, in the order of their columns.
        show: called with the states after every change.
        before: trials that an earlier process has started; their rows stay whatever happens.
        say: called once when the files cannot be written, and once when they can be again.
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
        self._recorded = {state.name: _record_of(state) for state in before}
        self._status: dict[str, str] = {}
        self._failing = False

    @property
    def trials(self) -> list[TrialState]:
        """All trials, by their names."""
        return [self.states[name] for name in sorted(self.states)]

    def update(self, trials: Sequence[TrialState]) -> None:
        """Take the states of trials; what the disk refuses is written at a later update."""
        self._take(trials)
        try:
            self._write()
        except (InputError, DiskError) as error:
            if not self._failing:
                self.say(f"{error} The search goes on, and writes it when it can.")
            self._failing = True
        else:
            if self._failing:
                self.say(f"What there was to write for the search is written to {self.folder.path}.")
            self._failing = False
        self.show(self.trials)

    def close(self, trials: Sequence[TrialState]) -> None:
        """Take the last states of trials.

        Raises:
            InputError, DiskError: they cannot be written.
        """
        self._take(trials)
        self._write()
        self.show(self.trials)

    def _take(self, trials: Sequence[TrialState]) -> None:
        for state in trials:
            failure = read_failure(self.folder.trial(state.name)) if state.status == "failed" else None
            if failure is not None:  # the trial's own words, which Ray Tune wraps, or passes on later
                state = replace(state, error=failure.reason)
            if not state.report and state.name in self.states:  # a trial that continues and has not reported again
                state = replace(state, report=self.states[state.name].report)
            self.states[state.name] = state

    def _write(self) -> None:
        for state in self.trials:
            if state.status != "waiting" and self._recorded.get(state.name) != _record_of(state):
                write_record(self.folder.trial(state.name), state)
                self._recorded[state.name] = _record_of(state)
        for state in self.trials:
            if state.ended and self._status.get(state.name) != state.status:
                write_hparams(self.folder.trial(state.name).tensorboard, state)
            self._status[state.name] = state.status
        rows = [
            {"trial": s.name, "status": s.status, **s.point, **{name: s.report.get(name) for name in _COLUMNS}}
            | {"error": s.error}
            for s in self.trials
        ]
        columns = ["trial", "status", *self.names, *_COLUMNS, "error"]
        table = pd.DataFrame(rows, columns=columns, dtype=object)
        write_whole(self.folder.results, lambda path: table.to_csv(path, index=False, lineterminator="\n"))


def _record_of(state: TrialState) -> tuple:
    return state.status, state.point, state.error


def write_hparams(folder: Path, state: TrialState) -> None:
    """Write a trial's settings and scores for TensorBoard's HPARAMS page, in place of what was there for the trial.

    Raises:
        DiskError: they cannot be written; what was there stays.
    """
    from torch.utils.tensorboard.summary import hparams

    point: dict[str, Any] = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in state.point.items()
    }
    scores = {name: state.report[name] for name in ("score", *names_in("trials")) if state.report.get(name) is not None}
    values = {f"trial/{name}": score for name, score in scores.items()}
    before, failures = _event_files(folder), list[str]()
    file = ScalarFile(folder, 0, failures.append)
    for summary in hparams({**point, "status": state.status}, values):
        file.add_summary(summary)
    file.add(0, values)
    file.close()
    for path in _event_files(folder) - before if failures else before:
        with contextlib.suppress(OSError):
            path.unlink()
    if failures:
        raise DiskError(failures[0])


def _event_files(folder: Path) -> set[Path]:
    return set(folder.glob("events.out.tfevents.*"))
