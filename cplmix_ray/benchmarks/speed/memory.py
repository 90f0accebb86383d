"""The memory that steps take, each side measured in a process of its own, as memory once used is not given back."""

import multiprocessing
import signal
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Literal

import scipy.sparse as sp
import torch

from cplmix_ray.benchmarks.speed.machine import PeakMemory
from cplmix_ray.benchmarks.speed.ours import OurStep, made_up_values, training_set
from cplmix_ray.benchmarks.speed.reference import PlainStep
from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.utils.errors import TrainingError

Side = Literal["ours", "plain"]
_STEPS = 3


def memory_of(side: Side, shape: Shape, device: str, threads: int) -> int | None:
    """Bytes that steps take beyond arms and data, gradients and Adam's moments included; None where the system does not
    tell.

    Raises:
        TrainingError: the process died.
    """
    context = multiprocessing.get_context("spawn")  # a fork would begin with the memory of this process
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, side, shape, device, threads), daemon=True)
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise TrainingError(
            f"The process that measured memory died ({side} at {shape.cells} cells x {shape.genes} genes), of too "
            f"little memory perhaps; ask for fewer --cells or --genes."
        ) from None
    finally:
        receiver.close()
        process.terminate()
        process.join()


def _measure(sender: Connection, side: Side, shape: Shape, device: str, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C is for the process that waits, which ends this one
    torch.set_num_threads(threads)
    sender.send(peak_memory(side, shape, torch.device(device)))


def peak_memory(side: Side, shape: Shape, device: torch.device) -> int | None:
    """The same in this process, which should be a fresh one."""
    # A step brings in libraries too, tens of megabytes of them: a small one has done that before.
    _step(side, replace(shape, cells=4, genes=8), device)(torch.arange(4))
    step = _step(side, shape, device)
    idx_n = torch.arange(shape.cells)
    watch = PeakMemory(device)
    for _ in range(_STEPS):
        step(idx_n)
    return watch.taken()


def _step(side: Side, shape: Shape, device: torch.device) -> OurStep | PlainStep:
    values_ng = made_up_values(shape)
    if side == "ours":
        return OurStep(shape, training_set(shape, values_ng), device)
    filled = values_ng.toarray() if sp.issparse(values_ng) else values_ng
    return PlainStep(shape, torch.from_numpy(filled).to(device))
