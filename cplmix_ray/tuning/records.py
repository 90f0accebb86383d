"""What is kept of a trial while it goes on: plain text that a later process reads and never runs.

``trial.json``, by the driver: its point and how it stands. ``reports.jsonl``, by the trial: every report, a line each.
``failure.json``, by the trial: why it failed. The first and the last are there whole or not at all; of the reports, the
last line can be cut short by a kill.
"""

import json
from dataclasses import replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cplmix_ray.checkpoints.run_folder import RunFolder, write_json
from cplmix_ray.config.files import describe
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.config.section import Section
from cplmix_ray.tuning.jsonl import append_record, count_damaged, read_lines, seal, unseal
from cplmix_ray.tuning.search_folder import TrialFolder
from cplmix_ray.tuning.space import config_at
from cplmix_ray.tuning.trial_state import History, TrialState
from cplmix_ray.utils.errors import InputError


class Entry(Section):
    """The driver's record of a trial."""

    format: Literal[1] = 1
    point: dict[str, Any]
    status: Literal["running", "paused", "stopped", "unfinished", "done", "failed", "waiting"]
    error: str = ""


class Failure(Section):
    """Why a trial failed, and whether it would do so again."""

    reason: str
    repeats: bool


class _Report(BaseModel):
    """One report; besides the step and the score, figures by their names."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, bool | int | float | str | None] = Field(init=False)

    step: int = Field(ge=0)
    score: float


def write_entry(folder: TrialFolder, state: TrialState) -> None:
    """Keep how a trial stands."""
    entry = {"format": 1, "point": state.point, "status": state.status, "error": state.error}
    write_json(folder.entry, seal(entry))


def append_report(folder: TrialFolder, report: dict[str, Any]) -> None:
    """Keep a report, on the disk before anybody acts on it.

    Raises:
        DiskError: it cannot be written.
    """
    append_record(folder.reports, report)


def read_reports(folder: TrialFolder) -> tuple[tuple[dict[str, Any], ...], list[str]]:
    """A trial's reports in the order of their steps, and what was wrong with others.

    A report replaces those of its step and of later ones: the trial has gone back.
    """
    reports: list[dict[str, Any]] = []
    damaged = 0
    try:
        lines = read_lines(folder.reports)
    except OSError as error:
        return (), [f"{folder.reports} cannot be read ({error.strerror})"]
    for line in lines:
        try:
            report = _Report.model_validate(unseal(line)).model_dump()
        except ValueError:
            damaged += 1
            continue
        reports = [*(earlier for earlier in reports if earlier["step"] < report["step"]), report]
    return tuple(reports), count_damaged(folder.reports, damaged)


def read_failure(folder: TrialFolder) -> Failure | None:
    """Why a trial failed; None where it has not, or where that cannot be read."""
    try:
        return Failure.model_validate_json(folder.failure.read_bytes())
    except (OSError, ValidationError):
        return None


def whole_metrics(run: RunFolder, metric: str) -> dict[str, float] | None:
    """The figures of a finished run; None where it has not finished, or where they cannot be read."""
    try:
        tree = json.loads(run.metrics.read_bytes())
        figures = {name: value for name, value in tree.items() if isinstance(value, int | float)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return figures if {"seconds", metric} <= set(figures) else None


def read_history(
    spec: SearchConfig, folder: TrialFolder, metric: str, drawn: dict[str, Any] | None
) -> tuple[History | None, list[str]]:
    """What an earlier process has left of a trial, and what was wrong with it.

    Args:
        drawn: the point that the search's seed gives the trial, where it gives one.

    Returns:
        None in place of the history where the point of the trial is not known at all.
    """
    entry, wrong = _read_entry(spec, folder)
    reports, wrong_reports = read_reports(folder)
    wrong += wrong_reports
    point = drawn if entry is None else entry.point
    if point is None:
        return None, wrong
    state = TrialState(folder.path.name, "unfinished", point, dict(reports[-1]) if reports else {})
    failure, seeds = read_failure(folder), range(spec.run.seed, spec.run.seed + spec.search.seeds)
    if state.report.get("complete") and all(whole_metrics(folder.run(seed), metric) for seed in seeds):
        state = replace(state, status="done")
    elif failure is not None and failure.repeats:
        state = replace(state, status="failed", error=failure.reason)
    elif entry is not None and entry.status == "stopped":
        state = replace(state, status="stopped")
    return History(state, reports), wrong


def _read_entry(spec: SearchConfig, folder: TrialFolder) -> tuple[Entry | None, list[str]]:
    if not folder.entry.exists():
        return None, []
    try:
        entry = Entry.model_validate(unseal(folder.entry.read_bytes()))
        if set(entry.point) != set(spec.space):
            raise InputError("its point is not one of this search")
        config_at(spec.run, entry.point)
    except (OSError, ValueError, InputError) as error:
        why = describe(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        return None, [f"{folder.entry} is damaged ({why})"]
    return entry, []
