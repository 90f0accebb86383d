"""What is left to do of a search, by the records of its trials."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from cplmix_ray.config.files import describe
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.tuning.exchanges import read_exchanges
from cplmix_ray.tuning.records import (
    TrialRecord,
    TrialState,
    check_record,
    read_failure,
    read_metrics,
    read_reports,
)
from cplmix_ray.tuning.search_folder import SearchFolder, TrialFolder
from cplmix_ray.tuning.search_setup import SearchSetup, SearchState
from cplmix_ray.tuning.searchers import draw_points
from cplmix_ray.tuning.space import check_point
from cplmix_ray.utils.errors import InputError


def read_search_state(setup: SearchSetup, say: Callable[[str], None]) -> SearchState:
    """Compare what a search asks for with what its folder holds.

    Points of grids and random draws follow from the search's seed, so those of an interrupted search are the ones that
    it would have had. A trial has ended when it has run all its seeds, was stopped by the scheduler, or has failed in a
    way that would repeat; all others continue.

    Args:
        say: called with a line for each damaged record.

    Raises:
        InputError: the folder is that of an older version.
    """
    spec, folder = setup.spec, setup.folder
    drawn = {}
    if spec.search.searcher == "random":
        points = draw_points(spec.space, spec.n_draws, spec.search.search_seed)
        drawn = {f"{number:04d}": point for number, point in enumerate(points)}
    names = list(_trial_names(folder))
    if folder.older.exists() and not any(folder.trial(name).record.exists() for name in names):
        raise InputError(
            f"{folder.path} holds a search of an older version of cplmix_ray, which this one cannot "
            f"resume; start a new one with another --out."
        )
    exchanges, wrong = read_exchanges(folder, spec)
    for each in wrong:
        say(f"{each}; lost exchanges are decided again if they are still needed.")
    moved = {move.name: move.point for exchange in exchanges for move in exchange.moves}
    history = []
    for name in names:
        if spec.search.searcher == "random" and name not in drawn:
            say(f"{folder.trial(name).path} belongs to no trial of this search and is ignored.")
            continue
        state, wrong = read_trial(setup, name, drawn.get(name))
        for each in wrong:
            so = "is ignored" if state is None else f"continues from what is complete ({state.status})"
            say(f"{each}; trial {name} {so}.")
        if state is not None:
            # A kill may have come between an exchange and the trial's own record of its new point.
            history.append(replace(state, point=moved.get(name, state.point)))
    points_now = drawn | {state.name: state.point for state in history}
    ended = {state.name for state in history if state.ended}
    trials = [(name, point) for name, point in points_now.items() if name not in ended]
    return SearchState(trials, spec.n_trials() - len(points_now), history, exchanges[-1].step if exchanges else 0)


def _trial_names(folder: SearchFolder) -> Iterator[str]:
    """Names of trials that have left any file."""
    for path in sorted(folder.trials.glob("[0-9]*")):
        if re.fullmatch(r"\d{4,}", path.name) and path.is_dir() and any(path.iterdir()):
            yield path.name


def read_trial(setup: SearchSetup, name: str, drawn: dict[str, Any] | None) -> tuple[TrialState | None, list[str]]:
    """The state in which an earlier process left a trial, and what was wrong with its records.

    Args:
        drawn: the point that follows from the search's seed, None where it does not.

    Returns:
        None in place of the state where the point of the trial is not known.
    """
    folder = setup.folder.trial(name)
    record, wrong = _read_record(setup.spec, folder)
    reports, wrong_reports = read_reports(folder)
    wrong += wrong_reports
    point = drawn if record is None else record.point
    if point is None:
        return None, wrong
    report, failure = dict(reports[-1]) if reports else {}, read_failure(folder)
    status, error = "unfinished", ""
    if report.get("complete") and all(read_metrics(folder.run(seed), setup.metric) for seed in setup.seeds):
        status = "done"
    elif failure is not None and failure.repeats:
        status, error = "failed", failure.reason
    elif record is not None and record.status == "stopped":
        status = "stopped"
    return TrialState(name, status, point, report, error, reports), wrong


def _read_record(spec: SearchConfig, folder: TrialFolder) -> tuple[TrialRecord | None, list[str]]:
    if not folder.record.exists():
        return None, []
    try:
        record = TrialRecord.model_validate(check_record(folder.record.read_bytes()))
        check_point(spec, record.point)
    except (OSError, ValueError, InputError) as error:
        why = describe(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        return None, [f"{folder.record} is damaged ({why})"]
    return record, []
