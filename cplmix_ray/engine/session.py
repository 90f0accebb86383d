"""Joining or starting Ray, and leaving it as it was found."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

from cplmix_ray.config import Placement
from cplmix_ray.engine.plan import Devices, local_devices
from cplmix_ray.errors import InputError

if "ray" not in sys.modules:
    # Ray reads these at its first import and hands them to the processes it starts; changed later, the two disagree
    # and nothing connects.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

_STORE_BYTES = 2 << 30
"""Bound of the object store of a Ray started here; it is filled only by the data, which is put once."""


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A connected Ray: the caller's if there is one, else a named cluster's, else one of its own for the while.

    Raises:
        InputError: there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    terminated = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address and address != "local":
            ray.init(address=address, **quiet)
        else:
            # "local" rather than nothing: a stale address file would otherwise lead to a cluster that is gone.
            ray.init(
                address="local",
                num_cpus=local_devices().cpus,
                object_store_memory=_store_bytes(),
                include_dashboard=False,
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"Cannot join Ray at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    if callable(terminated):  # Ray puts a handler of its own in the place of the program's
        signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    finally:
        ray.shutdown()


def cluster_devices(placement: Placement) -> Devices:
    """What the connected cluster's living machines have, or what it can grow to, in whole devices.

    A GPU counts with a CPU core beside it, as the worker that holds it needs one too.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(int(resources.get("CPU", 0)) for resources in alive)
    gpus = sum(int(min(resources.get("GPU", 0), resources.get("CPU", 0))) for resources in alive)
    if placement.cluster_grows_to is None:
        return Devices(gpus, cpus, "the Ray cluster", ", or say with --cluster-grows-to how far it grows on demand")
    if placement.device == "cpu":
        return Devices(gpus, max(cpus, placement.cluster_grows_to), "the Ray cluster at its largest")
    return Devices(max(gpus, placement.cluster_grows_to), cpus, "the Ray cluster at its largest")


def joins_cluster(address: str | None) -> bool:
    """Whether the devices are to be counted on a cluster rather than on this machine."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return True
    address = address or os.environ.get("RAY_ADDRESS")
    return bool(address) and address != "local"


def _store_bytes() -> int:
    """The store lives in shared memory where there is enough of it."""
    try:
        room = os.statvfs("/dev/shm")
        free = room.f_bavail * room.f_frsize
    except (OSError, AttributeError):
        return _STORE_BYTES
    return max(100 << 20, min(_STORE_BYTES, int(free * 0.8)))
