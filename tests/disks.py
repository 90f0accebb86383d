"""Fills a file system."""

import errno
import os
from pathlib import Path


def fill(folder: Path, but: int = 0) -> Path:
    """Write a file that takes all free space except ``but`` kilobytes, and return its path."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    try:
        ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - 1024 * but)))
    except OSError as error:  # another process has taken some of the space meanwhile: the disk is full all the same
        if error.errno != errno.ENOSPC or but:
            raise
    return ballast
