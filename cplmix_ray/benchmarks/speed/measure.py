"""From a case to its row."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cplmix_ray.benchmarks.results import append_row, read_rows
from cplmix_ray.benchmarks.speed.case import COLUMNS, Case, key_of
from cplmix_ray.benchmarks.speed.compare import compare
from cplmix_ray.benchmarks.speed.distributed import measure_spread
from cplmix_ray.benchmarks.speed.machine import chip_name, emulates_16_bits
from cplmix_ray.benchmarks.speed.memory import memory_of
from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.distributed.plan import local_devices, make_plan
from cplmix_ray.utils.threads import torch_threads

_MB = 1e6


def resolved(case: Case) -> Case:
    """On the device that there is.

    Raises:
        InputError: it was asked for and is not there.
    """
    gpu = make_plan(replace(case, engine="local").placement, 1, local_devices()).gpu
    return replace(case, device="cuda" if gpu else "cpu")


def without_row(cases: Sequence[Case], rows: Path) -> list[Case]:
    """The cases that are still to be measured.

    Raises:
        InputError: the rows cannot be read.
    """
    done = {key_of(row) for row in read_rows(rows, COLUMNS)}
    return [case for case in cases if case.key not in done]


def emulated(cases: Sequence[Case]) -> float | None:
    """How many times as long products in 16 bits take as in 32 bits where some case has them on a device without such
    arithmetic; None where none has."""
    halves = {case.device for case in cases if case.shape.precision == "bfloat16"}
    slower = [emulates_16_bits(torch.device(device)) for device in halves]
    return max((times for times in slower if times is not None), default=None)


def measure_all(cases: Sequence[Case], rows: Path, tell: Callable[[Case, dict[str, Any]], None]) -> None:
    """Measure the cases one after the other, and add a row as each ends.

    Raises:
        InputError: a row cannot be written, or there are too few devices.
        TrainingError: a worker failed, or a process died.
    """
    for case in cases:
        figures = {**case.settings, **measure(case)}
        append_row(rows, figures, COLUMNS)
        tell(case, figures)


def measure(case: Case) -> dict[str, Any]:
    """What there is to tell of a case, by column; docs/speed.md says what each figure is."""
    device = torch.device(case.device)
    with torch_threads(case.threads):
        dtype = getattr(torch, case.shape.precision)
        peak_dtype = torch.float32 if dtype != torch.float32 and emulates_16_bits(device) else dtype
        figures = dict((_packed if case.engine == "local" else _spread)(case, peak_dtype))
        return {"chip": chip_name(device), **figures}


def _packed(case: Case, peak_dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    shape = case.shape
    timing = compare(shape, torch.device(case.device), case.rounds, peak_dtype)
    low, middle, high = timing.ratio
    yield from _speed(shape, timing.ours, timing.first, timing.peak, workers=1)
    yield "plain_ms", 1e3 * timing.plain
    yield "plain_gflops", shape.plain_flop() / timing.plain / 1e9
    yield from (("times_as_fast", middle), ("times_as_fast_low", low), ("times_as_fast_high", high))
    yield "memory_mb", _megabytes(memory_of("ours", shape, case.device, case.threads))
    yield "plain_memory_mb", _megabytes(memory_of("plain", shape, case.device, case.threads))
    yield "sent_bytes", 0


def _spread(case: Case, peak_dtype: torch.dtype) -> Iterator[tuple[str, Any]]:
    found = measure_spread(case, peak_dtype)
    yield from _speed(case.shape, found.step, found.first, found.peak, found.workers)
    of_worker = replace(case.shape, n_arms=found.packed)
    yield "memory_mb", _megabytes(memory_of("ours", of_worker, case.device, case.threads))
    yield from (("sent_bytes", found.sent), ("wait_ms", 1e3 * found.waited), ("wait_share", found.waited / found.step))
    if found.alone is not None:
        yield from (("alone_ms", 1e3 * found.alone), ("times_alone", found.times_alone))


def _speed(shape: Shape, step: float, first: float, peak: float, workers: int) -> Iterator[tuple[str, Any]]:
    achieved = shape.needed_flop() / step / 1e9
    yield from (("workers", workers), ("step_ms", 1e3 * step), ("first_step_ms", 1e3 * first))
    yield from (("cells_per_s", shape.cells / step), ("needed_gflop", shape.needed_flop() / 1e9))
    yield from (("gflops", achieved), ("peak_gflops", peak), ("of_peak", achieved / workers / peak))


def _megabytes(n_bytes: int | None) -> float | None:
    return None if n_bytes is None else n_bytes / _MB
