"""Disks that are full."""

import os
from pathlib import Path


def fill(folder: Path, but: int = 0) -> Path:
    """A file that takes all room but some kilobytes."""
    ballast = folder / "ballast"
    room = os.statvfs(folder)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - 1024 * but)))
    return ballast
