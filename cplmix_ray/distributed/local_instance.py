"""What a Ray instance that is started for one run needs of the machine: a private folder, a token, some settings."""

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cplmix_ray.utils.errors import RayStartError

_FILES = "r"
"""Subfolder of the private folder for Ray, which lets all users into the folder that it is given."""
_LONGEST_SOCKET = f"{_FILES}/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
"""The longest path of a unix socket that Ray makes in the private folder."""
_LEAST_STORE_BYTES, _STORE_BYTES = 100 << 20, 2 << 30
"""Smallest and largest size of the object store, which holds only the data, stored once."""
_FOLDER_BYTES = 256 << 20
"""Free space that Ray's files need at least: its logs, and the object store if shared memory has no room for it."""


@contextlib.contextmanager
def local_instance() -> Iterator[Path]:
    """Prepare to start a Ray instance of one's own in this context, and yield the folder for its files.

    The instance needs no home folder: its token is a new one in the folder, which only this user can read and which is
    removed at the end. The package is imported by the workers from where this process has it, so that nothing is
    uploaded to them, as Ray would do under ``uv run``.

    Raises:
        RayStartError: there is no folder for the files, or the processes could not connect to each other.
    """
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            pass
    except OSError as error:  # Ray would try for minutes
        raise RayStartError(f"its processes cannot connect to each other at 127.0.0.1: {error.strerror}") from None
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_private_folder())
        token = folder / "auth_token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        stack.enter_context(
            # Ray listens on 127.0.0.1 only, by default so on Windows and macOS: other machines cannot connect, and Ray
            # continues to work when a laptop changes networks.
            _environment(RAY_AUTH_TOKEN=None, RAY_AUTH_TOKEN_PATH=str(token), RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
        )
        # Ray has read the variables when it was imported; those of this process are set in their place.
        for name in ("ENABLE_RAY_CLUSTER", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"):
            stack.callback(setattr, ray_constants, name, getattr(ray_constants, name, None))
            setattr(ray_constants, name, False)
        loader = AuthenticationTokenLoader.instance()
        loader.reset_cache()  # it may hold the token of a cluster
        stack.callback(loader.reset_cache)
        files = folder / _FILES
        files.mkdir()
        yield files


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A new folder of this user alone that can hold Ray's files and sockets, removed at the end."""
    named = filter(None, map(os.environ.get, ("RAY_TMPDIR", "TMPDIR")))
    folder = next(filter(None, map(_new_folder, (*named, "/tmp", "/var/tmp", "/dev/shm", "."))), None)
    if folder is None:
        raise RayStartError(
            f"no folder for its files was found; set TMPDIR to one with a short path that can be written to and has "
            f"{_FOLDER_BYTES >> 20} MiB free"
        )
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder(place: str) -> Path | None:
    """A new folder in a place; None if none can be made, space is short, or Ray's sockets cannot be made in it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir=Path(place).absolute()))
    except OSError:
        return None
    try:
        if hasattr(socket, "AF_UNIX"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.bind(str(folder / ("s" * len(_LONGEST_SOCKET))))
        if shutil.disk_usage(folder).free >= _FOLDER_BYTES and str(folder).isascii():  # Ray encodes paths as ASCII
            return folder
    except OSError:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return None


@contextlib.contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    """Environment variables in this context; None removes one."""
    before = {name: os.environ.get(name) for name in values}
    _set_environment(values)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def object_store(folder: Path) -> dict[str, Any]:
    """Options of ray.init for the object store: in shared memory, or in ``folder`` if that has no room for it."""
    shared = Path("/dev/shm")
    if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free >= 2 * _LEAST_STORE_BYTES:
        folder = shared
    size = max(_LEAST_STORE_BYTES, min(_STORE_BYTES, shutil.disk_usage(folder).free // 5 * 4))
    return {"object_store_memory": size, "_plasma_directory": str(folder)}
