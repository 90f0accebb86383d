"""Connecting to a Ray cluster, or starting a local one for the duration of a run."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cplmix_ray.config import Placement
from cplmix_ray.distributed.cluster_address import cluster_address, reachable_address
from cplmix_ray.distributed.local_instance import local_instance, object_store
from cplmix_ray.distributed.plan import Devices, local_devices
from cplmix_ray.utils.errors import InputError, RayStartError

if "ray" not in sys.modules:
    # Ray reads these when it is imported, and passes them to the processes that it starts; if they are changed later,
    # the processes cannot connect to each other.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would print 20 lines of its log when its raylet ends; ``ray_watch`` prints one sentence about that.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^Raylet is terminated")

try:
    Path.home()
except RuntimeError:  # a user without an entry in the user database; Ray Train could not be imported
    os.environ["HOME"] = "/nonexistent"

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A connected Ray: the caller's connection if there is one, otherwise a named cluster, otherwise a local instance.

    Connections and instances made here end with the context.

    Raises:
        InputError: there is no cluster at the address.
        RayStartError: the local instance did not start.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    cluster = cluster_address(address)
    terminated = signal.getsignal(signal.SIGTERM)
    with contextlib.ExitStack() as stack:
        if cluster is None:
            folder = stack.enter_context(local_instance())
            stack.callback(ray.shutdown)
            _start(folder)
        else:
            stack.callback(ray.shutdown)
            _join(cluster)
        # Ray replaces the program's signal handler, which only the main thread can restore.
        if callable(terminated) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)
        yield


def _start(folder: Path) -> None:
    """Start a local instance with its files in ``folder``."""
    import ray

    try:
        # Without "local", a stale address file could name a cluster that does not exist any more.
        ray.init(
            address="local",
            num_cpus=local_devices().cpus,
            include_dashboard=False,
            _temp_dir=str(folder),
            **object_store(folder),
            **_QUIET,
        )
    except Exception as error:  # Ray raises a plain Exception if a node does not start in time
        raise RayStartError(" ".join(str(error).split())[:200].rstrip(" .")) from None


def _join(address: str) -> None:
    """Connect to a cluster."""
    import ray

    found = reachable_address(address)
    try:
        ray.init(address=found, **_QUIET)
    except Exception as error:
        raise InputError(f"Cannot join Ray at {found} ({' '.join(str(error).split())[:400].rstrip(' .')}).") from None


def cluster_devices(placement: Placement) -> Devices:
    """Whole devices of the connected cluster: of its live nodes, or as many as it can grow to.

    A GPU counts only together with a CPU core, which its worker needs too.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = sum(int(resources.get("CPU", 0)) for resources in alive)
    gpus = sum(int(min(resources.get("GPU", 0), resources.get("CPU", 0))) for resources in alive)
    if placement.cluster_grows_to is None:
        remedy = ", or give with --cluster-grows-to the number of devices to which it grows on demand"
        return Devices(gpus, cpus, "the Ray cluster", remedy)
    if placement.device == "cpu":
        return Devices(gpus, max(cpus, placement.cluster_grows_to), "the Ray cluster at its largest")
    return Devices(max(gpus, placement.cluster_grows_to), cpus, "the Ray cluster at its largest")


def joins_cluster(address: str | None) -> bool:
    """Whether a run uses an existing Ray, so that devices are counted on its cluster rather than on this machine."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return True
    return cluster_address(address) is not None
