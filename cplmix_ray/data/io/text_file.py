"""Text files, plain or gzip, read with bounds: a megabyte of gzip can unpack to a gigabyte."""

import gzip
import io
from pathlib import Path
from typing import IO, Any

from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

LONGEST = 2**28
"""Bytes of a line; one with a number for each of ten million cells is shorter."""
SHARE = 4
"""A table that is read whole may take 1 / SHARE of the free memory as text; pandas takes more than the text does."""


def open_text(path: str | Path, whole: bool = False) -> IO[str]:
    """Open a file of lines, unpacked where its name ends in ``.gz``.

    Reading raises :class:`InputError` at a line that is too long, and where the file is larger than memory allows.

    Args:
        whole: the file is to be held in memory as a whole, and not line by line.

    Raises:
        OSError: it cannot be opened.
    """
    file: Any = (gzip.open if str(path).endswith(".gz") else open)(path, "rb")
    bounded = _Bounded(file, path, free_memory() // SHARE if whole else None)  # which closes it
    return io.TextIOWrapper(io.BufferedReader(bounded, 2**20), encoding="utf-8-sig", newline="")


class _Bounded(io.RawIOBase):
    """A stream that counts the bytes of each line and of all."""

    def __init__(self, file: Any, path: str | Path, most: int | None):
        self.file, self.path, self.most = file, path, most
        self.in_line = self.in_all = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        n = self.file.readinto(into)
        after = n - 1 - bytes(into[:n]).rfind(b"\n")
        self.in_line = self.in_line + n if after == n else after
        self.in_all += n
        if self.in_line > LONGEST:
            raise InputError(f"{self.path} has a line of more than {LONGEST / 2**20:,.0f} MB, and is no table.")
        if self.most is not None and self.in_all > self.most:
            raise InputError(
                f"{self.path} holds more than {self.most / 2**30:.1f} GB of text, which is more than the free memory "
                f"allows; leave out columns that are not needed."
            )
        return n

    def close(self) -> None:
        self.file.close()
        super().close()
