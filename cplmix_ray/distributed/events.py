"""What a worker tells the driver while it trains.

All workers of a run give the same kinds of events in the same order, each for its own arms; merged, they are what one
worker with all the arms would have given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Logged:
    """Terms of the objective at a step.

    Attributes:
        per_arm: name -> value of each arm.
        common: name -> value that all workers share.
        seconds: since this worker's loop began.
        waited: of these, how long it stood still for the other workers' part of the arms' sum.
        sent: bytes that a worker put into that sum at this step.
    """

    step: int
    per_arm: dict[str, list[float]]
    common: dict[str, float]
    seconds: float
    waited: float = 0.0
    sent: int = 0

    def joined(self, others: Sequence["Logged"]) -> "Logged":
        per_arm = {
            name: [*values, *(v for o in others for v in o.per_arm[name])] for name, values in self.per_arm.items()
        }
        every = (self, *others)
        seconds, waited, sent = (max(getattr(each, name) for each in every) for name in ("seconds", "waited", "sent"))
        return Logged(self.step, per_arm, self.common, seconds, waited, sent)


@dataclass(frozen=True)
class Evaluated:
    """Posteriors of the validation cells after ``step`` steps: log q (A, n, K), reconstruction loss of each arm."""

    step: int
    log_q_ank: np.ndarray
    reconstruction: list[float]

    def joined(self, others: Sequence["Evaluated"]) -> "Evaluated":
        log_q_ank = np.concatenate([self.log_q_ank, *(o.log_q_ank for o in others)])
        return Evaluated(self.step, log_q_ank, [*self.reconstruction, *(v for o in others for v in o.reconstruction)])


@dataclass(frozen=True)
class Snapshot:
    """Everything that training goes on from after ``step`` steps: arm -> name -> tensor, on the CPU."""

    step: int
    arms: dict[int, dict[str, Tensor]] = field(repr=False)

    def joined(self, others: Sequence["Snapshot"]) -> "Snapshot":
        arms: dict[int, dict[str, Tensor]] = {}
        for part in (self, *others):
            for arm, tensors in part.arms.items():
                arms[arm] = {**arms.get(arm, {}), **tensors}
        return Snapshot(self.step, arms)


@dataclass(frozen=True)
class Restarted:
    """Workers were lost, as ``reason`` says; training goes on from ``step``, and later events will come once more.

    Attributes:
        reached: the most steps that a worker had done; None where that is not known better than from the events.
    """

    step: int
    reason: str
    reached: int | None = None


@dataclass(frozen=True)
class Noticed:
    """A worker was found to be lost, as ``reason`` says; what comes of it is not known yet."""

    reason: str


@dataclass(frozen=True)
class Moved:
    """The arms run in another place from now on, as ``reason`` says."""

    reason: str


Event: TypeAlias = Logged | Evaluated | Snapshot
RunEvent: TypeAlias = Event | Noticed | Restarted | Moved
"""What an engine tells of a run: its workers' merged events, and what befell the workers themselves."""


def merge(events: Sequence[Any]) -> Event:
    """One event from those of all workers, which come in the order of their arms.

    Raises:
        RuntimeError: the workers are out of step.
    """
    first, *others = events
    if any(type(other) is not type(first) or other.step != first.step for other in others):
        raise RuntimeError(f"the workers are out of step: {[(type(e).__name__, e.step) for e in events]}")
    return first.joined(others)
