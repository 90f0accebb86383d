"""Records of the trials of a search: plain text that a later process reads and never runs.

``trial.json``, written by the driver: a trial's point and status. ``reports.jsonl``, written by the trial: every
report, one per line. ``failure.json``, written by the trial: why it failed. The first and the last are whole or absent;
the last line of the reports can be cut short by a kill. Records carry a checksum, as a number with another digit is a
number too.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config.section import Section
from cplmix_ray.tuning.search_folder import TrialFolder
from cplmix_ray.utils.durable import append_line, unwritten, write_json
from cplmix_ray.utils.errors import DiskError, InputError

Report = dict[str, Any]
"""What a trial reports: ``step`` (over all its runs), ``score``, ``done``, and other numbers; or why it ``failed``."""

Record = TypeVar("Record")


@dataclass(frozen=True)
class TrialState:
    """The state of a trial.

    Attributes:
        status: waiting, running, paused, stopped (early, by the scheduler), unfinished (the search was interrupted),
            done or failed.
        point: dotted names of the searched settings -> values.
        report: the newest report, empty before the first.
        error: why it failed, in one line.
        earlier: reports that an earlier process of the search left, in the order of their steps.
    """

    name: str
    status: str
    point: dict[str, Any]
    report: Report = field(default_factory=dict)
    error: str = ""
    earlier: tuple[Report, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the trial will not run again."""
        return self.status in ("done", "stopped", "failed")


class TrialRecord(Section):
    """Content of trial.json."""

    format: Literal[1] = 1
    point: dict[str, Any]
    status: Literal["running", "paused", "stopped", "unfinished", "done", "failed", "waiting"]
    error: str = ""


class Failure(Section):
    """Content of failure.json: why a trial failed, and whether it would fail again in the same way."""

    reason: str
    repeats: bool


class _Report(BaseModel):
    """One line of reports.jsonl; besides the step and the score, values by their names."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, bool | int | float | str | None] = Field(init=False)

    step: int = Field(ge=0)
    score: float


def add_checksum(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its checksum."""
    return {**record, "crc32": _checksum(record)}


def check_record(data: bytes) -> dict[str, Any]:
    """Parse a record and take its checksum off.

    Raises:
        ValueError: it is not what was written.
    """
    try:
        record = json.loads(data)
        if isinstance(record, dict) and record.pop("crc32", None) == _checksum(record):
            return record
    except RecursionError:
        raise ValueError("it is nested without end") from None
    raise ValueError("it does not match its checksum")


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append a record as one line; it is on the disk when this returns.

    Raises:
        DiskError: it cannot be written.
    """
    try:
        append_line(path, json.dumps(add_checksum(record)).encode())
    except OSError as error:
        raise DiskError(str(unwritten(path, error))) from None


def read_records(path: Path, parse: Callable[[dict[str, Any]], Record]) -> tuple[list[Record], list[str]]:
    """The whole records of a file, none where there is no file; and what was wrong with the others, in words.

    Args:
        parse: makes the result of one record; a ValueError or InputError from it counts the record as damaged.
    """
    records, damaged = [], 0
    try:
        lines = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        return [], [f"{path} cannot be read ({error.strerror})"]
    for line in filter(bytes.strip, lines):
        try:
            records.append(parse(check_record(line)))
        except (ValueError, InputError):
            damaged += 1
    return records, [f"{path} has {damaged} damaged line{'s' if damaged > 1 else ''}"] if damaged else []


def write_record(folder: TrialFolder, state: TrialState) -> None:
    """Write a trial's point and status to trial.json.

    Raises:
        InputError, DiskError: it cannot be written.
    """
    record = {"format": 1, "point": state.point, "status": state.status, "error": state.error}
    write_json(folder.record, add_checksum(record))


def read_reports(folder: TrialFolder) -> tuple[tuple[Report, ...], list[str]]:
    """A trial's reports in the order of their steps, and what was wrong with others.

    A report replaces those of its step and of later ones: the trial has gone back.
    """
    found, wrong = read_records(folder.reports, lambda record: _Report.model_validate(record).model_dump())
    reports: list[Report] = []
    for report in found:
        reports = [*(earlier for earlier in reports if earlier["step"] < report["step"]), report]
    return tuple(reports), wrong


def read_failure(folder: TrialFolder) -> Failure | None:
    """Why a trial failed; None where it has not failed or the file cannot be read."""
    try:
        return Failure.model_validate_json(folder.failure.read_bytes())
    except (OSError, ValidationError):
        return None


def read_metrics(run: RunFolder, metric: str) -> dict[str, float] | None:
    """The numbers in metrics.json of a finished run; None where it has not finished or the file cannot be used.

    Args:
        metric: must be among them.
    """
    try:
        tree = json.loads(run.metrics.read_bytes())
        metrics = {name: value for name, value in tree.items() if isinstance(value, int | float)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return metrics if {"seconds", metric} <= set(metrics) else None
