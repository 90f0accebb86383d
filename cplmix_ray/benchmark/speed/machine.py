"""What the machine can do, and what a process holds."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

_SIDE, _TRIES = 2048, 5


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
    a, b = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    best = min(seconds_of(lambda: torch.mm(a, b, out=out), device) for _ in range(_TRIES))
    return 2.0 * _SIDE**3 / best / 1e9


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
