"""Trials as they stand, without a word of Ray in it."""

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class TrialState:
    """A trial as it stands.

    Attributes:
        status: waiting, running, paused, stopped (early, by the scheduler), unfinished (as the search was
            interrupted), done or failed.
        report: the newest report, empty before the first.
        error: why it failed, in one line.
    """

    name: str
    status: str
    point: dict[str, Any]
    report: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def ended(self) -> bool:
        """Whether the search is through with it."""
        return self.status in ("done", "stopped", "failed")


@dataclass(frozen=True)
class History:
    """What an earlier process has left of a trial.

    Attributes:
        state: how it stood; of a trial that is to go on, 'unfinished'.
        reports: all its reports in the order of their steps.
    """

    state: TrialState
    reports: tuple[dict[str, Any], ...] = ()


class Listener(Protocol):
    """Told of all trials whenever something has changed."""

    def __call__(self, trials: list[TrialState]) -> None: ...
