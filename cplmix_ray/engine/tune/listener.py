"""What the driver hears of the trials from Ray Tune."""

from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from cplmix_ray.engine.tune.state import Listener, TrialState

_STATUS = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused", "TERMINATED": "done", "ERROR": "failed"}


def state_of(trial: TuneTrial) -> TrialState:
    """Ray Tune's trial in the words of this package."""
    report = dict(trial.last_result or {})
    status = _STATUS.get(trial.status, trial.status.lower())
    if status == "done" and not report.get("complete"):
        # Ray Tune marks the report at which a scheduler ends a trial, and not those of trials under way when all ends.
        status = "stopped" if report.get("done") else "unfinished"
    error = _last_line(trial.get_error()) if status == "failed" else ""
    return TrialState(str(trial), status, dict(trial.config), report, error)


def _last_line(error: Any) -> str:
    lines = [line.strip() for line in str(error or "its process died").splitlines() if line.strip()]
    return lines[-1]


_heard: dict[str, Listener] = {}
"""Ray Tune pickles callbacks and takes them from the pickle when a search is resumed, so they hold nothing; this
process has one search at a time, and its listener is here."""


class Hearing(tune.Callback):
    """Passes on every change."""

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        _tell(trials)

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        _tell(trials)

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        _tell(trials)

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        _tell(trials)


def _tell(trials: list[TuneTrial]) -> None:
    listener = _heard.get("listener")
    if listener is not None:
        listener([state_of(trial) for trial in trials])


def listen(listener: Listener | None) -> None:
    """From now on tell this listener."""
    if listener is None:
        _heard.clear()
    else:
        _heard["listener"] = listener
