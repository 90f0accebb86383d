"""Arrays of an `.npz` archive; sizes are checked before anything is unpacked."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np

from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

_READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Header:
    """Shape, order and type of an array, from its header."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


@contextmanager
def open_archive(path: str | Path, kind: str) -> Iterator[zipfile.ZipFile]:
    """An archive while it is open.

    Args:
        kind: what it should be, for messages.

    Raises:
        InputError: it is none, or what is done with it raises anything else, as broken archives do in many ways.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"Cannot read {path} as {kind} ({reason}).") from None


def array_names(archive: zipfile.ZipFile) -> set[str]:
    """Names of its arrays."""
    return {name.removesuffix(".npy") for name in archive.namelist()}


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """A whole array.

    Raises:
        ValueError: it holds objects, or its size is not what it says.
        InputError: it is larger than the memory that is free.
    """

    def whole(file: IO[bytes], header: Header) -> np.ndarray:
        if header.dtype.hasobject:
            raise ValueError(f"Object arrays cannot be loaded: {name} is one")
        if header.dtype.names is not None or header.dtype.subdtype is not None or header.dtype.itemsize == 0:
            raise ValueError(f"{name} holds {header.dtype}, and no numbers")
        values = np.empty(prod(header.shape), header.dtype)
        into, at = values.view(np.uint8).data, 0
        while at < values.nbytes:
            n = file.readinto(into[at:])  # type: ignore[attr-defined]
            if not n:
                raise ValueError(f"{name} ends early")
            at += n
        return values.reshape(header.shape, order="F" if header.fortran else "C")

    return read_array_with(archive, name, whole)


def read_array_with(archive: zipfile.ZipFile, name: str, read: Callable[[IO[bytes], Header], object]):
    """Check the header of an array, and return what ``read`` makes of the open file behind it and of the header.

    The size of an array of objects cannot be checked; ``read`` must refuse it.
    """
    entry = archive.getinfo(name if name in archive.namelist() else f"{name}.npy")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in _READ_HEADER:
            raise ValueError(f"{name} has format {version}, and is no array of numbers")
        header = Header(*_READ_HEADER[version](file))
        if min(header.shape, default=0) < 0:
            raise ValueError(f"{name} has shape {header.shape}")
        n_bytes, free = prod(header.shape) * header.dtype.itemsize, free_memory()
        there = entry.file_size - file.tell()
        if n_bytes != there and not header.dtype.hasobject:
            how = "ends early" if there < n_bytes else "goes on after its end"
            raise ValueError(f"{name} {how}: it says that it takes {n_bytes:,} bytes, and {there:,} are there")
        if n_bytes > free:
            raise InputError(
                f"{name} in {archive.filename} takes {n_bytes / 2**30:,.1f} GB, and {free / 2**30:,.1f} GB of memory "
                f"are free."
            )
        return read(file, header)
