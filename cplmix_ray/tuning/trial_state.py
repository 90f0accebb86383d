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


@dataclass(frozen=True)
class Move:
    """A trial of population based training that goes on from another one.

    Attributes:
        name: the trial that had lagged behind.
        origin: the better one, whose weights at ``step`` it takes.
        point: where it goes on in the space, near the better one's point.
    """

    name: str
    origin: str
    step: int
    point: dict[str, Any]


@dataclass(frozen=True)
class Exchange:
    """What was decided when all trials of population based training had come to ``step``."""

    step: int
    moves: tuple[Move, ...] = ()


class Listener(Protocol):
    """Told of all trials whenever something has changed."""

    def __call__(self, trials: list[TrialState]) -> None: ...
