"""A first reading of an HDF5 file in a process of its own.

In some damaged files HDF5 goes round in circles, or beyond its memory, in C below Python, where nothing can be caught.
So another process meets them first:

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

from cplmix_ray.data.validation.hdf5_safety import Node, readable
from cplmix_ray.utils.errors import InputError

_SECONDS = 20
"""Of the processor's time for one part of a file, which takes a fraction of one."""
_VALUES = 1_000_000
"""That are read of a data set; names and heaps, which lead HDF5 astray, are read with the first of them."""
_BYTES = 256 << 20
"""Above which one row is not read."""
_DAMAGE = {"SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGPROF"}
"""Ends that the file is to blame for, and not who sent a signal or the lack of memory."""


@contextlib.contextmanager
def rehearsed(path: str | Path) -> Iterator[h5py.File]:
    """The open file, once another process has come through it.

    Raises:
        InputError: that process did not.
    """
    found = Path(path).resolve().stat()
    _rehearse(str(path), found.st_size, found.st_mtime_ns)
    with h5py.File(path, "r") as file:
        yield file


@lru_cache(maxsize=64)
def _rehearse(path: str, size: int, changed_ns: int) -> None:
    """Once for a file as it is now."""
    command = [sys.executable, "-m", __name__, path, str(_SECONDS)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended_by = signal.Signals(-done.returncode).name if done.returncode < 0 else ""
    if ended_by in _DAMAGE:
        what = "does not come to an end" if ended_by == "SIGPROF" else f"ends the process ({ended_by})"
        raise InputError(f"{path} is damaged: reading it {what}; take another copy, or write it again.")


def _meet(path: str, seconds: float) -> None:
    """Read some of everything; what cannot be read in ways that Python sees is left to who reads it in earnest."""
    import resource  # which Windows has not: there nothing is met, and the file is read as it is

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _begin(seconds)
    with contextlib.suppress(Exception), h5py.File(path, "r") as file:
        for node, sound in readable(file, path):
            with contextlib.suppress(Exception):
                _read_attributes(node)
            if sound and isinstance(node, h5py.Dataset):
                with contextlib.suppress(Exception):
                    _read_some(node)
            _begin(seconds)


def _begin(seconds: float) -> None:
    """The time of the next part, at the end of which the process ends, wherever it is."""
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
    _meet(sys.argv[1], float(sys.argv[2]))
