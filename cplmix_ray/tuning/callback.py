"""What the driver hears of the trials from Ray Tune."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from cplmix_ray.tuning.trial_state import Listener, TrialState

_STATUS = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused", "TERMINATED": "done", "ERROR": "failed"}


def state_of(trial: TuneTrial, report: dict[str, Any] | None = None, through: bool = False) -> TrialState:
    """Ray Tune's trial in the words of this package.

    Args:
        report: its newest report, where Ray Tune has not kept that yet.
        through: Ray Tune is through with it, and will say so of it in a moment.
    """
    report = dict(trial.last_result or {} if report is None else report)
    if "failed" in report:  # by itself; Ray Tune would start it again
        return TrialState(str(trial), "failed", dict(trial.config["trial"]["point"]), error=report["failed"])
    if "step" not in report:  # before the first one, Ray Tune has notes of its own there
        report = {}
    status = "done" if through else _STATUS.get(trial.status, trial.status.lower())
    if status == "done" and not report.get("complete"):
        # Ray Tune marks the report at which a scheduler ends a trial, and not those of trials under way when all ends.
        status = "stopped" if report.get("done") else "unfinished"
    error = _last_line(trial.get_error()) if status == "failed" else ""
    return TrialState(str(trial), status, dict(trial.config["trial"]["point"]), report, error)


def _last_line(error: Any) -> str:
    lines = [line.strip() for line in str(error or "its process died").splitlines() if line.strip()]
    return lines[-1]


_heard: dict[str, Listener] = {}
"""Ray Tune pickles callbacks, so they hold nothing; this process has one search at a time, and its listener is here."""


class Hearing(tune.Callback):
    """Passes on every change as soon as it is known."""

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        _tell(trials, state_of(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        _tell(trials, state_of(trial, result))

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        _tell(trials, state_of(trial, through=True))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        _tell(trials, state_of(trial))


def _tell(trials: list[TuneTrial], news: TrialState) -> None:
    listener = _heard.get("listener")
    if listener is not None:
        listener([news if str(trial) == news.name else state_of(trial) for trial in trials])


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Meanwhile tell this listener."""
    _heard["listener"] = listener
    try:
        yield
    finally:
        _heard.clear()
