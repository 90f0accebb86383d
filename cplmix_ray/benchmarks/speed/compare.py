"""Both steps in one process, taking turns, so that their ratio holds where the machine's speed does not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cplmix_ray.benchmarks.speed.machine import matmul_peak, seconds_of
from cplmix_ray.benchmarks.speed.ours import OurStep, made_up_values, training_set
from cplmix_ray.benchmarks.speed.reference import PlainStep
from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.data.training_set import dense_rows

TURN = 3
"""Steps of a turn that are timed."""


@dataclass(frozen=True)
class Timing:
    """What the rounds took.

    Attributes:
        ours, plain: seconds of a step, median.
        first: seconds of our first step.
        peak: GFLOP/s of large matrix products, measured in the same rounds, median.
        ratio: plain over ours in the same round: lower quartile, median, upper quartile.
    """

    ours: float
    plain: float
    first: float
    peak: float
    ratio: tuple[float, float, float]


def compare(shape: Shape, device: torch.device, rounds: int, peak_dtype: torch.dtype = torch.float32) -> Timing:
    """Take turns: some steps of ours, as many plain steps, a product of large matrices.

    The first step of a turn is not timed: it finds caches and memory as the other side has left them, which in a run
    no step does.
    """
    values_ng = made_up_values(shape)
    every = np.arange(values_ng.shape[0])
    plain = PlainStep(shape, torch.from_numpy(dense_rows(values_ng, every)).to(device))
    ours = OurStep(shape, training_set(shape, values_ng), device)
    rng = np.random.default_rng(0)

    def draw() -> torch.Tensor:
        return torch.from_numpy(rng.permutation(every)[: shape.cells])

    first = seconds_of(lambda: ours(draw()), device)
    plain(draw())
    times = []
    for _ in range(rounds):
        batches = [draw() for _ in range(TURN + 1)]
        taken = [_turn(step, batches, device) for step in (ours, plain)]
        times.append((*taken, matmul_peak(device, peak_dtype)))
    own, others, peaks = (np.array(column) for column in zip(*times, strict=True))
    low, middle, high = quartiles(others / own)
    return Timing(float(np.median(own)), float(np.median(others)), first, float(np.median(peaks)), (low, middle, high))


def _turn(step: Callable[[torch.Tensor], float], batches: Sequence[torch.Tensor], device: torch.device) -> float:
    """Seconds of a step, the mean over all but the first."""
    step(batches[0])
    return seconds_of(lambda: [step(idx_n) for idx_n in batches[1:]], device) / (len(batches) - 1)


def quartiles(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return low, middle, high
