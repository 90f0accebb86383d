"""Which engine, how many workers, and which arms on which; decided and said before anything starts."""

import os
from dataclasses import dataclass

import torch

from cplmix_ray.config import Placement
from cplmix_ray.utils.errors import InputError, ShortfallError


@dataclass(frozen=True)
class Plan:
    """Where the arms of a run go.

    Attributes:
        engine: 'local', 'ray' or 'ray_train'.
        workers: the arms of each worker; those with the shares of the same arms' minibatches stand together.
        gpu: whether each worker holds a GPU (else one CPU core).
        reason: one sentence for the user.
        replicas: workers for the same arms, each with its share of every minibatch.
    """

    engine: str
    workers: tuple[tuple[int, ...], ...]
    gpu: bool
    reason: str
    replicas: int = 1

    @property
    def n_arms(self) -> int:
        """Arms of the run."""
        return sum(map(len, self.workers)) // self.replicas


@dataclass(frozen=True)
class Devices:
    """What there is to run on.

    Attributes:
        gpus, cpus: whole GPUs and CPU cores.
        where: where they were counted.
        remedy: what else may be done where they are too few, to end a sentence with.
    """

    gpus: int
    cpus: int
    where: str
    remedy: str = ""


def local_devices() -> Devices:
    """GPUs and usable cores of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Devices(torch.cuda.device_count() if torch.cuda.is_available() else 0, cores, "this machine")


def make_plan(placement: Placement, n_arms: int, devices: Devices) -> Plan:
    """Choose the engine and spread the arms.

    Raises:
        ShortfallError: the workers asked for are more than the devices.
        InputError: the kind of device asked for is not there at all.
    """
    if placement.device == "cuda" and devices.gpus == 0:
        raise InputError(f"--device cuda was asked for, but {devices.where} has no GPU; use --device cpu or auto.")
    gpu = devices.gpus > 0 and placement.device != "cpu"
    unit, count = ("GPU", devices.gpus) if gpu else ("CPU core", devices.cpus)
    has = f"{devices.where} has {count} {unit}{'s' if count != 1 else ''}"
    if placement.engine == "local":
        return _packed(n_arms, gpu, "as --engine local asks")
    replicas = placement.replicas
    if placement.engine == "auto" and placement.arms_per_worker is None:
        if n_arms == replicas == 1:
            return _packed(n_arms, gpu, "one arm has no other to run beside")
        if count < 2:
            return _packed(n_arms, gpu, f"{has}, and actors would only take turns on it")
    per_worker = placement.arms_per_worker or -(-n_arms // max(1, min(n_arms, count // replicas)))
    groups = [tuple(range(first, min(first + per_worker, n_arms))) for first in range(0, n_arms, per_worker)]
    workers = tuple(arms for arms in groups for _ in range(replicas))
    if len(workers) > count:
        shared = f" and {replicas} workers to share each minibatch" if replicas > 1 else ""
        if replicas > count:
            remedy = f"lower --replicas to {max(1, count)}"
        else:
            remedy = f"raise --arms-per-worker to {-(-n_arms // max(1, count // replicas))}"
        raise ShortfallError(
            f"{n_arms} arms with {per_worker} a worker{shared} need {len(workers)} {unit}s, but {has}; "
            f"{remedy} or use --engine local{devices.remedy}."
        )
    asked = f"{has}, one for each worker" if placement.engine == "auto" else f"as --engine {placement.engine} asks"
    spread = ", ".join("+".join(str(arm) for arm in arms) for arms in groups)
    spread += f", {replicas} workers each," if replicas > 1 else ""
    engine, kind = ("ray_train", "workers of Ray Train") if placement.engine == "ray_train" else ("ray", "Ray actors")
    return Plan(engine, workers, gpu, f"Engine {engine}: arms {spread} on {len(workers)} {kind} ({asked}).", replicas)


def _packed(n_arms: int, gpu: bool, why: str) -> Plan:
    arms = f"{n_arms} arms" if n_arms > 1 else "one arm"
    return Plan("local", (tuple(range(n_arms)),), gpu, f"Engine local: {arms} packed in this process ({why}).")
