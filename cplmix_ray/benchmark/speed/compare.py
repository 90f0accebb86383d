"""Both steps in one process, taking turns, so that their ratio holds where the machine's speed does not."""

import functools
import statistics
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch

from cplmix_ray.benchmark.speed.machine import PeakMemory, matmul_peak, seconds_of
from cplmix_ray.benchmark.speed.ours import OurStep, made_up_values
from cplmix_ray.benchmark.speed.reference import PlainStep
from cplmix_ray.benchmark.speed.shape import Shape
from cplmix_ray.data.training_set import dense_rows


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds.

    Attributes:
        ours, plain: seconds a step; first: seconds of our first step.
        peak: GFLOP/s of large float32 matrix products, measured in the same rounds.
        ratio: median of the rounds' ratios.
    """

    ours: float
    plain: float
    first: float
    peak: float
    ratio: float


def compare(shape: Shape, device: torch.device, rounds: int) -> Timing:
    """Take turns: a product of large matrices, a plain step, a step of ours."""
    values_ng = made_up_values(shape)
    every = np.arange(values_ng.shape[0])
    plain = PlainStep(shape, torch.from_numpy(dense_rows(values_ng, every)).to(device))
    ours = OurStep(shape, values_ng, device)
    rng = np.random.default_rng(0)

    def draw() -> torch.Tensor:
        return torch.from_numpy(rng.permutation(every)[: shape.cells])

    first = seconds_of(lambda: ours(draw()), device)
    plain(draw())
    times = []
    for _ in range(rounds):
        idx_n = draw()
        taken = [seconds_of(functools.partial(step, idx_n), device) for step in (ours, plain)]
        times.append((*taken, matmul_peak(device)))
    own, others, peaks = zip(*times, strict=True)
    ratio = statistics.median(b / a for a, b in zip(own, others, strict=True))
    return Timing(statistics.median(own), statistics.median(others), first, statistics.median(peaks), ratio)


def peak_memory(shape: Shape, whose: str, device: torch.device, steps: int = 3) -> int | None:
    """Bytes that steps take beyond arms, optimiser and data; to be called in a fresh process."""
    values_ng = made_up_values(shape)
    idx_n = torch.arange(shape.cells)
    if whose == "plain":
        filled = values_ng.toarray() if sp.issparse(values_ng) else values_ng
        step: OurStep | PlainStep = PlainStep(shape, torch.from_numpy(filled).to(device))
    else:
        step = OurStep(shape, values_ng, device)
    watch = PeakMemory(device)
    for _ in range(steps):
        step(idx_n)
    return watch.taken()
