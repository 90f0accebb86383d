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
from cplmix_ray.distributed.plan import Devices, local_devices
from cplmix_ray.utils.errors import InputError, TrainingError

if "ray" not in sys.modules:
    # Ray reads these when it is imported, and passes them to the processes that it starts; if they are changed later,
    # the processes cannot connect to each other.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

_STORE_BYTES = 2 << 30
"""Largest size of the object store of a Ray started here; it contains only the data, which is stored once."""


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """A connected Ray: the caller's connection if there is one, otherwise a named cluster, otherwise a local instance.

    Connections and instances made here end with the context.

    Raises:
        InputError: there is no cluster at the address.
        TrainingError: the local instance did not start.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    own = not address or address == "local"
    terminated = signal.getsignal(signal.SIGTERM)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    with _loopback() if own else contextlib.nullcontext():
        try:
            if own:
                # Without "local", a stale address file could name a cluster that does not exist any more.
                ray.init(
                    address="local",
                    num_cpus=local_devices().cpus,
                    object_store_memory=_store_bytes(),
                    include_dashboard=False,
                    **quiet,
                )
                _restrict_token()
            else:
                ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"Cannot join Ray at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
        except Exception as error:  # Ray raises a plain Exception if a node does not start in time
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"Ray did not start ({reason}); repeat the command when the machine is less busy, or use --engine "
                f"local."
            ) from None
        # Ray replaces the program's signal handler, which only the main thread can restore.
        if callable(terminated) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)
        try:
            yield
        finally:
            ray.shutdown()


def _restrict_token() -> None:
    """Make Ray's authentication token, which Ray creates readable for all users, readable for its owner only."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):  # it does not exist, or belongs to another user
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """Make a Ray that is started in this context listen on 127.0.0.1 only.

    Other machines then cannot connect, and Ray continues to work when a laptop changes networks. Ray does so by default
    on Windows and macOS; on other systems the environment variable for these two is set.
    """
    from ray._private import ray_constants

    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before, known = os.environ.get(switch), getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    os.environ[switch] = "0"  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, since Ray reads the variable only once
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = known
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before


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
    address = address or os.environ.get("RAY_ADDRESS")
    return bool(address) and address != "local"


def _store_bytes() -> int:
    """Size of the object store, limited by the free shared memory."""
    try:
        status = os.statvfs("/dev/shm")
        free = status.f_bavail * status.f_frsize
    except (OSError, AttributeError):
        return _STORE_BYTES
    return max(100 << 20, min(_STORE_BYTES, int(free * 0.8)))
