"""Notices the end of the processes of Ray that a driver depends on.

When they end, Ray ends the driver too, from a thread of its own and without an exception: with the raylet at once, and
with the control store about a minute later. So a connection to each is held, and its end is reported before that.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import ray

_CONTROL_STORE_SECONDS = 45.0
"""Seconds in which a cluster may start its control store again; Ray waits 60 s."""
_POLL_SECONDS = 0.5

Address = tuple[str, int] | str
"""Host and port, or the path of a local socket, which a raylet closes first when it ends."""


@contextlib.contextmanager
def ray_watched(timeout: float, on_end: Callable[[str], None]) -> Iterator[None]:
    """Call ``on_end`` when the raylet of this machine or the control store of the connected Ray has ended.

    Args:
        timeout: seconds after which a control store that does not come back counts as ended.
        on_end: called in another thread, with what has ended. It should end the process: calls to Ray may block.
    """
    context, manages = ray.get_runtime_context(), "Ray's process that manages the workers of this machine"
    host, _, port = context.gcs_address.rpartition(":")
    watched: list[tuple[str, Address, float]] = [
        ("Ray's control store", (host.strip("[]"), int(port)), min(timeout, _CONTROL_STORE_SECONDS))
    ]
    for node in ray.nodes():
        if node["NodeID"] == context.get_node_id():
            watched.append((f"The raylet, {manages},", node["RayletSocketName"], 0.0))
    stop = threading.Event()
    for each in watched:
        threading.Thread(target=_watch, args=(*each, stop, on_end), name="ray-watch", daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _watch(name: str, address: Address, seconds: float, stop: threading.Event, on_end: Callable[[str], None]) -> None:
    """Stay connected to a process; it has ended when no connection is accepted for some seconds."""
    refused_since: float | None = None
    while not stop.is_set():
        try:
            with _connected(address) as connection:
                refused_since = None
                connection.settimeout(_POLL_SECONDS)
                _await_close(connection, stop)
        except (ConnectionRefusedError, FileNotFoundError):
            refused_since = refused_since or time.monotonic()
            if time.monotonic() - refused_since >= seconds:
                break
            stop.wait(_POLL_SECONDS)
        except OSError:  # the network, or a machine that is busy: Ray has its own timeouts for these
            stop.wait(_POLL_SECONDS)
    if not stop.is_set():
        on_end(name)


def _connected(address: Address) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, timeout=5.0)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5.0)
    connection.connect(address)
    return connection


def _await_close(connection: socket.socket, stop: threading.Event) -> None:
    """Wait until the other side closes the connection."""
    while not stop.is_set():
        try:
            if not connection.recv(4096):
                return
        except TimeoutError:
            continue
        except ConnectionResetError:  # by a process that was killed
            return


def end_process(ended: str, describe: Callable[[], str]) -> None:
    """End the process at once with status 1, as Ray would do a moment later, after one sentence.

    Args:
        ended: what has ended.
        describe: says what is kept and how to continue.
    """
    with contextlib.suppress(OSError), os.fdopen(os.dup(2), "w", encoding="utf-8", errors="backslashreplace") as shown:
        with open(os.devnull, "wb") as nowhere:  # for what Ray prints of its end
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        show_cursor = "\x1b[?25h\n" if shown.isatty() else ""  # which a progress bar hides
        shown.write(f"{show_cursor}error: {ended} has ended; {describe()}.\n")
    os._exit(1)
