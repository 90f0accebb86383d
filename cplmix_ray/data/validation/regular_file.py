"""Checks that a path is a regular file; reading a pipe or a device might never end."""

import stat
from pathlib import Path

from cplmix_ray.utils.errors import InputError


def is_file(path: str | Path) -> bool:
    """Whether the path is a regular file."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return False


def require_file(path: str | Path, option: str) -> None:
    """Refuse a path that is no regular file.

    Raises:
        InputError: there is nothing, or a folder, a pipe, a socket or a device.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"There is no file {path}; check the path given to {option}.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"Cannot read {path} ({reason}); check the path given to {option}.") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise InputError(f"Cannot read {path}: it is {what} and no file; check the path given to {option}.")
