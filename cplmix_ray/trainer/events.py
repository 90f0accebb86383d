"""What a worker tells the driver while it trains.

All workers of a run give the same kinds of events in the same order, each for its own arms; merged, they are what one
worker with all the arms would have given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Logged:
    """Terms of the objective at a step.

    Attributes:
        per_arm: name -> value of each arm.
        common: name -> value that all workers share.
    """

    step: int
    per_arm: dict[str, list[float]]
    common: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """Posteriors of the validation cells after ``step`` steps: log q (A, n, K), reconstruction loss of each arm."""

    step: int
    log_q_ank: np.ndarray
    reconstruction: list[float]


@dataclass(frozen=True)
class Snapshot:
    """Everything that training goes on from after ``step`` steps: arm -> name -> tensor, on the CPU."""

    step: int
    arms: dict[int, dict[str, Tensor]] = field(repr=False)


Event = TypeVar("Event", Logged, Evaluated, Snapshot)


def merge(events: Sequence[Event]) -> Event:
    """One event from those of all workers, which come in the order of their arms.

    Raises:
        RuntimeError: the workers are out of step.
    """
    first = events[0]
    if any(type(event) is not type(first) or event.step != first.step for event in events):
        raise RuntimeError(f"the workers are out of step: {[(type(e).__name__, e.step) for e in events]}")
    if len(events) == 1:
        return first
    if isinstance(first, Logged):
        per_arm = {name: [v for e in events for v in e.per_arm[name]] for name in first.per_arm}
        return Logged(first.step, per_arm, first.common, max(e.seconds for e in events))
    if isinstance(first, Evaluated):
        log_q_ank = np.concatenate([e.log_q_ank for e in events])
        return Evaluated(first.step, log_q_ank, [v for e in events for v in e.reconstruction])
    return Snapshot(first.step, {arm: tensors for e in events for arm, tensors in e.arms.items()})
