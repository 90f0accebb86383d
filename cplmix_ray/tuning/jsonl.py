"""Records that notice damage: JSON with a checksum, as a figure with another digit is a figure too."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from cplmix_ray.utils.durable import unwritten
from cplmix_ray.utils.errors import DiskError


def seal(tree: dict[str, Any]) -> dict[str, Any]:
    """The record with its checksum."""
    return {**tree, "crc32": _checksum(tree)}


def unseal(data: bytes) -> dict[str, Any]:
    """A record without its checksum.

    Raises:
        ValueError: it is not what was written.
    """
    try:
        tree = json.loads(data)
        if isinstance(tree, dict) and tree.pop("crc32", None) == _checksum(tree):
            return tree
    except RecursionError:
        raise ValueError("it is nested without end") from None
    raise ValueError("it does not match its checksum")


def _checksum(tree: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def append_record(path: Path, tree: dict[str, Any]) -> None:
    """Add a record as a line, on the disk before anybody acts on it.

    Raises:
        DiskError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            if file.tell() and not _ends_a_line(path):
                file.write(b"\n")  # a kill has cut the last record short
            file.write(json.dumps(seal(tree)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DiskError(str(unwritten(path, error))) from None


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def read_lines(path: Path) -> list[bytes]:
    """The lines of a file of records, whole or not; none where there is no file.

    Raises:
        OSError: it cannot be read.
    """
    return [line for line in path.read_bytes().splitlines() if line.strip()] if path.exists() else []


def count_damaged(path: Path, n_lines: int) -> list[str]:
    """How many lines of a file are damaged, in words; nothing where none is."""
    return [f"{path} has {n_lines} damaged line{'s' if n_lines > 1 else ''}"] if n_lines else []
