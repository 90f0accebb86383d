"""Speed of the machine's matrix products, and memory that training steps take.

Times are measured by hand and not with ``torch.utils.benchmark``, whose timer runs its statement at least twice before
it counts: here the first step counts too, and steps to compare take turns.
"""

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from cplmix_ray.benchmarks.speed.case import Shape
from cplmix_ray.benchmarks.speed.package_step import PackageStep, random_values, training_set
from cplmix_ray.benchmarks.speed.plain_step import PlainStep
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.utils.errors import TrainingError

StepName = Literal["package", "plain"]

_SIDES = {"cpu": (512, 1024), "cuda": (8192,)}
"""Sides of square matrices at which a device is near its best: a CPU while they fit its cache, a GPU with more."""
_TRIES = 5
_EMULATED = 3.0
"""16-bit products that take this many times as long as 32-bit ones are emulated."""
_MEMORY_STEPS = 3


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of the work, until the device has finished."""
    _synchronize(device)
    start = time.perf_counter()
    work()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """The best GFLOP/s of square matrix products."""
    return max(2.0 * side**3 / _product_seconds(side, device, dtype) / 1e9 for side in _SIDES[device.type])


def _product_seconds(side: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return min(seconds_of(lambda: torch.mm(a, b, out=out), device) for _ in range(_TRIES))


@functools.cache
def emulates_16_bits(device: torch.device) -> float | None:
    """Time of a product in bfloat16 over that in float32 where bfloat16 is emulated; None where it is not."""
    short, long = (_product_seconds(512, device, dtype) for dtype in (torch.bfloat16, torch.float32))
    return short / long if short > _EMULATED * long else None


def chip_name(device: torch.device) -> str:
    """Name of the GPU, or instruction set and number of usable cores of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{torch.backends.cpu.get_cpu_capability()} x {cores}"


class PeakMemory:
    """Peak memory in bytes beyond that at construction.

    On a GPU torch's own count. On a CPU the resident set of the process, whose peak only Linux can reset (psutil has no
    such call): None elsewhere.
    """

    def __init__(self, device: torch.device):
        self.device, self.before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")
            self.before = _status("VmRSS")

    def taken(self) -> int | None:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _status("VmHWM") - self.before if self.before else None


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


def step_memory(name: StepName, shape: Shape, device: str, threads: int) -> int | None:
    """Bytes that steps take beyond arms and data, with gradients and Adam's moments; None where the system does not
    tell. Measured in a process of its own, as a process does not return all memory that it has used.

    Raises:
        TrainingError: the process died.
    """
    context = multiprocessing.get_context("spawn")  # a fork would start with the memory of this process
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, name, shape, device, threads), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise TrainingError(
            f"The process that measured memory died ({name} at {shape.cells} cells x {shape.genes} genes), of too "
            f"little memory perhaps; ask for fewer --cells or --genes."
        ) from None
    finally:
        receiver.close()
        process.terminate()
        process.join()


def _measure(sender: Connection, name: StepName, shape: Shape, device_name: str, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C is for the parent, which ends this process
    torch.set_num_threads(threads)
    device = torch.device(device_name)
    # The first step loads libraries, tens of megabytes of them; a small one does that before.
    _step(name, replace(shape, cells=4, genes=8), device)(torch.arange(4))
    step = _step(name, shape, device)
    idx_n = torch.arange(shape.cells)
    memory = PeakMemory(device)
    for _ in range(_MEMORY_STEPS):
        step(idx_n)
    sender.send(memory.taken())


def _step(name: StepName, shape: Shape, device: torch.device) -> PackageStep | PlainStep:
    values_ng = random_values(shape)
    if name == "package":
        return PackageStep(shape, training_set(shape, values_ng), device)
    return PlainStep(
        shape, torch.from_numpy(InMemoryMatrix(values_ng).dense_rows(np.arange(values_ng.shape[0]))).to(device)
    )
