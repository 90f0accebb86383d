"""What the machine can do, and what a process holds."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

_SIDES = {"cpu": (512, 1024), "cuda": (8192,)}
"""Of square matrices on which a device comes near its best: a processor where they fit its cache, a GPU beyond that."""
_TRIES = 5
_EMULATED = 3.0
"""Arithmetic of half the bits that takes so many times as long is none of the device's own."""


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds until the device has done it."""
    _finish(device)
    begun = time.perf_counter()
    work()
    _finish(device)
    return time.perf_counter() - begun


def _finish(device: torch.device) -> None:
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
    """How many times as long a product in bfloat16 takes as in float32 where the device has no arithmetic for it;
    None where it has."""
    short, long = (_product_seconds(512, device, dtype) for dtype in (torch.bfloat16, torch.float32))
    return short / long if short > _EMULATED * long else None


def chip_name(device: torch.device) -> str:
    """The GPU, or the CPU's kind of arithmetic and how many cores may be used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{torch.backends.cpu.get_cpu_capability()} x {cores}"


class PeakMemory:
    """How much memory steps take beyond what is held before them, in bytes.

    On a GPU torch's own count; on a CPU the resident set, which Linux alone tells: None elsewhere.
    """

    def __init__(self, device: torch.device):
        self.device, self.before = device, 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
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
