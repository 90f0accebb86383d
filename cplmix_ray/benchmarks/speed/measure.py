"""Measures cases and appends their rows."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cplmix_ray.benchmarks.results import append_row, keys_of, read_rows
from cplmix_ray.benchmarks.speed.case import COLUMNS, KEY, Case, Shape
from cplmix_ray.benchmarks.speed.machine import (
    StepName,
    chip_name,
    emulates_16_bits,
    matmul_peak,
    seconds_of,
    step_memory,
)
from cplmix_ray.benchmarks.speed.package_step import PackageStep, random_values, training_set
from cplmix_ray.benchmarks.speed.plain_step import PlainStep
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.distributed.engines import Engine, engine_for
from cplmix_ray.distributed.plan import local_devices, make_plan
from cplmix_ray.training.events import Logged
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.threads import torch_threads

STEPS = 3
"""Timed steps of a turn in one process."""
RAY_STEPS = 10
"""Steps of a run on actors that warm up, and as many that are timed; the time of an event is small beside theirs."""

Figures = dict[str, Any]


def resolve_device(case: Case) -> Case:
    """The case with 'cpu' or 'cuda' as its device.

    Raises:
        InputError: the device that was asked for is not there.
    """
    gpu = make_plan(replace(case, engine="local").placement, 1, local_devices()).gpu
    return replace(case, device="cuda" if gpu else "cpu")


def pending_cases(cases: Sequence[Case], rows: Path) -> list[Case]:
    """Cases that have no row yet.

    Raises:
        InputError: the rows cannot be read.
    """
    done = set(keys_of(read_rows(rows, COLUMNS), KEY))
    return [case for case in cases if case.key not in done]


def emulation_factor(cases: Sequence[Case]) -> float | None:
    """Time of products in bfloat16 over those in float32, the largest over the cases where bfloat16 is emulated; None
    if it never is."""
    devices = {case.device for case in cases if case.shape.precision == "bfloat16"}
    factors = [emulates_16_bits(torch.device(device)) for device in devices]
    return max((factor for factor in factors if factor is not None), default=None)


def measure_all(cases: Sequence[Case], rows: Path, on_end: Callable[[Case, Figures], None]) -> None:
    """Measure the cases one after the other, and append a row as each ends.

    Raises:
        InputError: a row cannot be written, or there are too few devices.
        TrainingError: a worker failed, or a process died.
    """
    for case in cases:
        device = torch.device(case.device)
        with torch_threads(case.threads):
            dtype = getattr(torch, case.shape.precision)
            peak_dtype = torch.float32 if dtype != torch.float32 and emulates_16_bits(device) else dtype
            measured = (measure_local if case.engine == "local" else measure_ray)(case, peak_dtype)
        figures = {**case.settings, "chip": chip_name(device), **measured}
        append_row(rows, figures, COLUMNS)
        on_end(case, figures)


def measure_local(case: Case, peak_dtype: torch.dtype = torch.float32) -> Figures:
    """Figures of the package's step and the plain one in this process, by column (see docs/speed.md).

    Both steps and a product of large matrices take turns, so that ratios hold on a machine whose speed varies. The
    first step of a turn is not timed: it finds caches and memory as the other step has left them.
    """
    shape, device = case.shape, torch.device(case.device)
    values_ng = random_values(shape)
    all_n = np.arange(values_ng.shape[0])
    plain = PlainStep(shape, torch.from_numpy(InMemoryMatrix(values_ng).dense_rows(all_n)).to(device))
    package = PackageStep(shape, training_set(shape, values_ng), device)
    rng = np.random.default_rng(0)

    def draw() -> torch.Tensor:
        return torch.from_numpy(rng.permutation(all_n)[: shape.cells])

    def seconds_per_step(step: Callable[[torch.Tensor], float], batches: Sequence[torch.Tensor]) -> float:
        step(batches[0])
        return seconds_of(lambda: [step(idx_n) for idx_n in batches[1:]], device) / STEPS

    first = seconds_of(lambda: package(draw()), device)
    plain(draw())
    times = []
    for _ in range(case.rounds):
        batches = [draw() for _ in range(STEPS + 1)]
        steps = [seconds_per_step(step, batches) for step in (package, plain)]
        times.append((*steps, matmul_peak(device, peak_dtype)))
    package_r, plain_r, peak_r = np.array(times).T
    plain_seconds = float(np.median(plain_r))
    low, middle, high = np.quantile(plain_r / package_r, (0.25, 0.5, 0.75))
    return {
        **_speed(shape, np.median(package_r), first, np.median(peak_r), workers=1),
        "plain_ms": 1e3 * plain_seconds,
        "plain_gflops": shape.plain_flop() / plain_seconds / 1e9,
        "times_as_fast": float(middle),
        "times_as_fast_low": float(low),
        "times_as_fast_high": float(high),
        "memory_mb": _megabytes("package", shape, case),
        "plain_memory_mb": _megabytes("plain", shape, case),
        "sent_bytes": 0,
    }


def measure_ray(case: Case, peak_dtype: torch.dtype = torch.float32) -> Figures:
    """Figures of arms on Ray actors and of one arm on one actor, by column (see docs/speed.md).

    A short run of all arms, one of a single arm, and a product of large matrices take turns.

    Raises:
        InputError: there are too few devices.
        TrainingError: a worker failed.
    """
    shape, one_arm = case.shape, replace(case.shape, n_arms=1)
    data, device = training_set(shape, random_values(shape)), torch.device(case.device)
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(engine_for(case.placement, shape.n_arms))
        # The second engine uses the Ray that the first one started.
        single = stack.enter_context(engine_for(case.placement, 1)) if shape.n_arms > 1 else None
        first = _logged(engine, shape, case, data, 1)[-1].seconds
        times, sent = [], 0
        for _ in range(case.rounds):
            step, waited, sent = _timed_run(engine, shape, case, data)
            alone = np.nan if single is None else _timed_run(single, one_arm, case, data)[0]
            times.append((step, waited, alone, matmul_peak(device, peak_dtype)))
        workers = engine.plan.workers
    step_r, waited_r, alone_r, peak_r = np.array(times).T
    step, waited = np.median(step_r), np.median(waited_r)
    of_worker = replace(shape, n_arms=max(len(arms) for arms in workers))
    return {
        **_speed(shape, step, first, np.median(peak_r), len(workers)),
        "memory_mb": _megabytes("package", of_worker, case),
        "sent_bytes": sent,
        "wait_ms": 1e3 * float(waited),
        "wait_share": float(waited / step),
        "alone_ms": 1e3 * float(np.median(alone_r)),
        "times_alone": float(np.median(step_r / alone_r)),
    }


def _timed_run(engine: Engine, shape: Shape, case: Case, data: TrainingSet) -> tuple[float, float, int]:
    """Seconds of a step, seconds of waiting in it, and bytes sent."""
    begin, end = _logged(engine, shape, case, data, 2 * RAY_STEPS)
    steps = end.step - begin.step
    return (end.seconds - begin.seconds) / steps, (end.waited - begin.waited) / steps, end.sent


def _logged(engine: Engine, shape: Shape, case: Case, data: TrainingSet, n_steps: int) -> list[Logged]:
    config = shape.config(**case.placement.model_dump(exclude={"precision"}))
    course = {"max_steps": n_steps, "log_every": RAY_STEPS, "evaluate_every": n_steps, "checkpoint_every": n_steps}
    config = config.model_copy(update={"training": config.training.model_copy(update=course)})
    with contextlib.closing(engine.train(config, data, Start())) as events:
        return [event for event in events if isinstance(event, Logged)]


def _speed(shape: Shape, step: float, first: float, peak: float, workers: int) -> Figures:
    achieved = shape.needed_flop() / step / 1e9
    return {
        "workers": workers,
        "step_ms": 1e3 * step,
        "first_step_ms": 1e3 * first,
        "cells_per_s": shape.cells / step,
        "needed_gflop": shape.needed_flop() / 1e9,
        "gflops": achieved,
        "peak_gflops": peak,
        "of_peak": achieved / workers / peak,
    }


def _megabytes(name: StepName, shape: Shape, case: Case) -> float | None:
    n_bytes = step_memory(name, shape, case.device, case.threads)
    return None if n_bytes is None else n_bytes / 1e6
