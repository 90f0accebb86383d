"""Arms spread over Ray actors against one arm on one actor, through the engine that trains."""

import contextlib
from dataclasses import dataclass, replace

import numpy as np
import torch

from cplmix_ray.benchmarks.speed.case import Case
from cplmix_ray.benchmarks.speed.machine import matmul_peak
from cplmix_ray.benchmarks.speed.ours import made_up_values, training_set
from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.engines import Engine, engine_for
from cplmix_ray.distributed.events import Logged
from cplmix_ray.training.loop import Start

STEPS = 10
"""Steps of a run that warm up, and then as many that are timed; telling of each would take longer than some steps."""


@dataclass(frozen=True)
class Spread:
    """What the rounds took.

    Attributes:
        step, waited: seconds of a step, and for how many of these a worker stood still for the arms' sum; medians.
        alone: seconds of a step of one arm on one worker, median; None where there is one arm only.
        times_alone: median of the rounds' step over alone.
        first: seconds of the first step.
        sent: bytes that a worker puts into the arms' sum at a step.
        workers, packed: how many workers there were, and the most arms that one had.
        peak: GFLOP/s of large matrix products in one process, median.
    """

    step: float
    waited: float
    alone: float | None
    times_alone: float | None
    first: float
    sent: int
    workers: int
    packed: int
    peak: float


def measure_spread(case: Case, peak_dtype: torch.dtype = torch.float32) -> Spread:
    """Take turns: a short run of all arms, one of a single arm, a product of large matrices.

    Raises:
        InputError: there are too few devices.
        TrainingError: a worker failed.
    """
    shape, one = case.shape, replace(case.shape, n_arms=1)
    data, device = training_set(shape, made_up_values(shape)), torch.device(case.device)
    placement = case.placement
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(engine_for(placement, shape.n_arms))
        # The second one finds the first one's Ray.
        single = stack.enter_context(engine_for(placement, 1)) if shape.n_arms > 1 else None
        first = _events(engine, shape, case, data, 1)[-1].seconds
        steps, waits, alone, peaks, sent = [], [], [], [], 0
        for _ in range(case.rounds):
            step, waited, sent = _timed(engine, shape, case, data)
            steps.append(step)
            waits.append(waited)
            if single is not None:
                alone.append(_timed(single, one, case, data)[0])
            peaks.append(matmul_peak(device, peak_dtype))
        workers = engine.plan.workers
    ratio = float(np.median(np.divide(steps, alone))) if alone else None
    return Spread(
        step=float(np.median(steps)),
        waited=float(np.median(waits)),
        alone=float(np.median(alone)) if alone else None,
        times_alone=ratio,
        first=first,
        sent=sent,
        workers=len(workers),
        packed=max(len(arms) for arms in workers),
        peak=float(np.median(peaks)),
    )


def _timed(engine: Engine, shape: Shape, case: Case, data: TrainingSet) -> tuple[float, float, int]:
    """Seconds of a step, how many of these were waited, and bytes sent."""
    begin, end = _events(engine, shape, case, data, 2 * STEPS)
    taken = end.step - begin.step
    return (end.seconds - begin.seconds) / taken, (end.waited - begin.waited) / taken, end.sent


def _events(engine: Engine, shape: Shape, case: Case, data: TrainingSet, n_steps: int) -> list[Logged]:
    config = shape.config(**case.placement.model_dump(exclude={"precision"}))
    course = {"max_steps": n_steps, "log_every": STEPS, "evaluate_every": n_steps, "checkpoint_every": n_steps}
    config = config.model_copy(update={"training": config.training.model_copy(update=course)})
    with contextlib.closing(engine.train(config, data, Start())) as events:
        return [event for event in events if isinstance(event, Logged)]
