"""Events that workers send to the driver while they train.

All workers of a run yield the same kinds of events in the same order, each for its own units; merged, they are what one
worker with all units would have yielded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from cplmix_ray.models.base import Parts


@dataclass(frozen=True)
class Logged:
    """Terms of the objective at a step.

    Attributes:
        terms: name -> value of each unit.
        shared: name -> value that all units have in common.
        settings: name -> value of a setting that follows a schedule.
        seconds: time since the start of this worker's loop.
        waited: time of these that it waited for sums over units.
        sent: bytes that a worker sent for the sum of this step.
    """

    step: int
    terms: dict[str, list[float]]
    shared: dict[str, float]
    settings: dict[str, float]
    seconds: float
    waited: float = 0.0
    sent: int = 0

    def merged(self, others: Sequence["Logged"]) -> "Logged":
        terms = {name: [*values, *(v for o in others for v in o.terms[name])] for name, values in self.terms.items()}
        every = (self, *others)
        seconds, waited, sent = (max(getattr(each, name) for each in every) for name in ("seconds", "waited", "sent"))
        return Logged(self.step, terms, self.shared, self.settings, seconds, waited, sent)


@dataclass(frozen=True)
class Evaluated:
    """Outputs for the validation cells after ``step`` steps; the first axis of each counts units."""

    step: int
    outputs: dict[str, np.ndarray]

    def merged(self, others: Sequence["Evaluated"]) -> "Evaluated":
        reported = [event.outputs for event in (self, *others) if event.outputs]
        names = reported[0] if reported else ()
        return Evaluated(self.step, {name: np.concatenate([each[name] for each in reported]) for name in names})


@dataclass(frozen=True)
class Snapshot:
    """Everything from which training can continue after ``step`` steps: part -> name -> tensor, on the CPU."""

    step: int
    parts: Parts = field(repr=False)

    def merged(self, others: Sequence["Snapshot"]) -> "Snapshot":
        parts: Parts = {}
        for snapshot in (self, *others):
            for part, tensors in snapshot.parts.items():
                parts[part] = {**parts.get(part, {}), **tensors}
        return Snapshot(self.step, parts)


@dataclass(frozen=True)
class Restarted:
    """Workers were lost; training continues from ``step``, and the events after it are repeated.

    Attributes:
        reason: the lost workers and the cause.
        reached: the largest number of steps that a worker had done; None if unknown, or if earlier events show it.
    """

    step: int
    reason: str
    reached: int | None = None


@dataclass(frozen=True)
class WorkersLost:
    """Workers were lost; it is not known yet whether training continues.

    Attributes:
        reason: the lost workers and the cause.
    """

    reason: str


@dataclass(frozen=True)
class PlanChanged:
    """The units run on other devices from now on.

    Attributes:
        reason: the new plan.
    """

    reason: str


Event: TypeAlias = Logged | Evaluated | Snapshot
RunEvent: TypeAlias = Event | WorkersLost | Restarted | PlanChanged
"""What an engine yields: the merged events of its workers, and losses and restarts of workers."""


def merge(events: Sequence[Any]) -> Event:
    """Merge the events of all workers, given in the order of their units.

    Raises:
        RuntimeError: the workers are at different steps.
    """
    first, *others = events
    if any(type(other) is not type(first) or other.step != first.step for other in others):
        raise RuntimeError(f"the workers are at different steps: {[(type(e).__name__, e.step) for e in events]}")
    return first.merged(others)
