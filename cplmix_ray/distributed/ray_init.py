"""Joining or starting Ray, and leaving it as it was found."""

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
        TrainingError: a Ray of one's own did not start.
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
                # "local" rather than nothing: a stale address file would otherwise lead to a cluster that is gone.
                ray.init(
                    address="local",
                    num_cpus=local_devices().cpus,
                    object_store_memory=_store_bytes(),
                    include_dashboard=False,
                    **quiet,
                )
                _hide_token()
            else:
                ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"Cannot join Ray at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
        except Exception as error:  # of no kind of its own where a node did not start in time
            reason = " ".join(str(error).split())[:200]
            raise TrainingError(
                f"Ray did not start ({reason}); give the same command once more when the machine does less, or use "
                f"--engine local."
            ) from None
        # Ray puts a handler of its own in the place of the program's, which only the main thread may put back.
        if callable(terminated) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminated)
        try:
            yield
        finally:
            ray.shutdown()


def _hide_token() -> None:
    """Ray writes its secret, when there is none yet, for everybody on the machine to read."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with contextlib.suppress(OSError):  # none there, or somebody else's
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """A Ray that is started for the while listens on 127.0.0.1 alone.

    Nobody else is to join it, and it outlives a change of the network that a laptop is in. Ray does this by itself on
    Windows and macOS; elsewhere it takes the switch by which it is told to behave as it does there.
    """
    from ray._private import ray_constants

    switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before, known = os.environ.get(switch), getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    os.environ[switch] = "0"  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, as Ray looks at the variable once
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = known
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before


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
