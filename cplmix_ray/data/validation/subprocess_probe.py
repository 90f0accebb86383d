"""A trial reading of an HDF5 file in a subprocess.

Some damaged files make HDF5 loop for ever or crash, in C, where Python can catch nothing. So a subprocess reads some of
every object first:

    python -m cplmix_ray.data.validation.subprocess_probe FILE SECONDS
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import h5py

from cplmix_ray.data.validation.hdf5_safety import Node, list_objects
from cplmix_ray.utils.errors import InputError

_SECONDS = 20
"""CPU time for one object, which usually takes a fraction of a second."""
_VALUES = 1_000_000
"""Values that are read of a data set; names and heaps, where HDF5 fails, are read with the first of them."""
_BYTES = 256 << 20
"""Bytes above which a data set is not read."""
_DAMAGE = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGPROF"}
"""Signals that end the subprocess because of the file, and not because of a user or a lack of memory."""


@contextlib.contextmanager
def open_probed(path: str | Path) -> Iterator[h5py.File]:
    """Open a file after the subprocess has read it.

    Raises:
        InputError: the subprocess crashed or did not end.
    """
    found = Path(path).resolve().stat()
    _probe(str(path), found.st_size, found.st_mtime_ns)
    with h5py.File(path, "r") as file:
        yield file


@lru_cache(maxsize=64)
def _probe(path: str, size: int, changed_ns: int) -> None:
    """Run the subprocess, once for a file as it is now."""
    command = [sys.executable, "-m", __name__, path, str(_SECONDS)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended_by = signal.Signals(-done.returncode).name if done.returncode < 0 else ""
    if ended_by in _DAMAGE:
        what = "does not come to an end" if ended_by == "SIGPROF" else f"ends the process ({ended_by})"
        raise InputError(f"{path} is damaged: reading it {what}; take another copy, or write it again.")


def _read_all(path: str, seconds: float) -> None:
    """Read some of every object. Exceptions of Python are ignored: the reader proper will raise them."""
    import resource  # not on Windows, where this fails at once and the file is read without the trial

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _start_timer(seconds)
    with contextlib.suppress(Exception), h5py.File(path, "r") as file:
        for node, safe in list_objects(file, path):
            with contextlib.suppress(Exception):
                _read_attributes(node)
            if safe and isinstance(node, h5py.Dataset):
                with contextlib.suppress(Exception):
                    _read_some(node)
            _start_timer(seconds)


def _start_timer(seconds: float) -> None:
    """Start the time of the next object, at the end of which the system ends the process."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _read_attributes(node: Node) -> None:
    for name in list(node.attrs):
        with contextlib.suppress(Exception):
            node.attrs[name]


def _read_some(values: h5py.Dataset) -> None:
    if not values.size:
        return
    if values.ndim == 0:
        values[()]
        return
    wide = values.size // len(values)
    rows = max(1, _VALUES // wide)
    if rows * wide * values.dtype.itemsize < _BYTES:
        values[:rows]
        values[-1:]


if __name__ == "__main__":
    _read_all(sys.argv[1], float(sys.argv[2]))
