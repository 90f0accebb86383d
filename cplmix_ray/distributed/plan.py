"""The plan of a run: its engine, its workers, and the units of each worker; made before training starts."""

import os
from dataclasses import dataclass

import torch

from cplmix_ray.config import Placement
from cplmix_ray.utils.errors import InputError, ShortfallError


@dataclass(frozen=True)
class Plan:
    """Engine and workers of a run.

    Attributes:
        engine: 'local', 'ray' or 'ray_train'.
        workers: the units of each worker; workers with the same units, which train on different shards of the
            minibatches, are consecutive.
        gpu: whether each worker has a GPU (otherwise one CPU core).
        reason: the plan and the reason for it, in one sentence for the user.
        replicas: number of workers with the same units, each of which trains on one shard of every minibatch.
        unit: name of a unit in messages ("arm").
    """

    engine: str
    workers: tuple[tuple[int, ...], ...]
    gpu: bool
    reason: str
    replicas: int = 1
    unit: str = "arm"

    @property
    def n_units(self) -> int:
        """Number of units of the run."""
        return sum(map(len, self.workers)) // self.replicas


@dataclass(frozen=True)
class Devices:
    """Available devices.

    Attributes:
        gpus, cpus: numbers of whole GPUs and CPU cores.
        where: description of the machine or cluster, for messages.
        remedy: end of a sentence: what else can be done if there are too few.
    """

    gpus: int
    cpus: int
    where: str
    remedy: str = ""


def local_devices() -> Devices:
    """GPUs and usable cores of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Devices(torch.cuda.device_count() if torch.cuda.is_available() else 0, cores, "this machine")


def make_plan(placement: Placement, n_units: int, devices: Devices, unit: str = "arm") -> Plan:
    """Choose the engine and distribute the units over workers.

    Args:
        unit: name of a unit in messages.

    Raises:
        ShortfallError: more workers are requested than there are devices.
        InputError: there is no device of the requested kind.
    """
    if placement.device == "cuda" and devices.gpus == 0:
        raise InputError(f"--device cuda was requested, but {devices.where} has no GPU; use --device cpu or auto.")
    gpu = devices.gpus > 0 and placement.device != "cpu"
    device, count = ("GPU", devices.gpus) if gpu else ("CPU core", devices.cpus)
    has = f"{devices.where} has {count} {device}{'s' if count != 1 else ''}"
    if placement.engine == "local":
        return local_plan(n_units, unit, gpu, "requested by --engine local")
    replicas = placement.replicas
    if placement.engine == "auto" and placement.arms_per_worker is None:
        if n_units == replicas == 1:
            return local_plan(n_units, unit, gpu, f"there is only one {unit}")
        if count < 2:
            return local_plan(n_units, unit, gpu, f"{has}, on which actors would not run in parallel")
    per_worker = placement.arms_per_worker or -(-n_units // max(1, min(n_units, count // replicas)))
    groups = [tuple(range(first, min(first + per_worker, n_units))) for first in range(0, n_units, per_worker)]
    workers = tuple(units for units in groups for _ in range(replicas))
    if len(workers) > count:
        shared = f" and {replicas} workers to share each minibatch" if replicas > 1 else ""
        if replicas > count:
            remedy = f"lower --replicas to {max(1, count)}"
        else:
            remedy = f"raise --arms-per-worker to {-(-n_units // max(1, count // replicas))}"
        raise ShortfallError(
            f"{n_units} {unit}s with {per_worker} a worker{shared} need {len(workers)} {device}s, but {has}; "
            f"{remedy} or use --engine local{devices.remedy}."
        )
    why = f"{has}, one for each worker" if placement.engine == "auto" else f"requested by --engine {placement.engine}"
    placed = ", ".join("+".join(str(each) for each in units) for units in groups)
    placed += f", {replicas} workers each," if replicas > 1 else ""
    engine, kind = ("ray_train", "workers of Ray Train") if placement.engine == "ray_train" else ("ray", "Ray actors")
    reason = f"Engine {engine}: {unit}s {placed} on {len(workers)} {kind} ({why})."
    return Plan(engine, workers, gpu, reason, replicas, unit)


def local_plan(n_units: int, unit: str, gpu: bool, why: str) -> Plan:
    """All units in this process.

    Args:
        why: the reason, in words.
    """
    units = f"{n_units} {unit}s" if n_units > 1 else f"one {unit}"
    reason = f"Engine local: {units} packed in this process ({why})."
    return Plan("local", (tuple(range(n_units)),), gpu, reason, unit=unit)
