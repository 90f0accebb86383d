"""Files and folders that are there whole or not at all, at whatever moment the process or the machine stops.

A name is only given to what is on the disk already, and what had the name before goes only after that.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cplmix_ray.utils.errors import DiskError, InputError

PARTIAL, REPLACED, OLD = ".partial-", ".replaced-", ".old-"
"""What hidden names begin with: of what is being made; of what is about to be replaced, which counts until it is; of
what is being removed."""


def why(error: OSError) -> str:
    """The reason in the system's words; libraries put paragraphs in their place."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


def unwritten(path: Path, error: OSError) -> InputError | DiskError:
    """Why a file or folder is not there, in one sentence: the place is wrong, or it has no room."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return DiskError(
            f"Cannot write {path} ({why(error)}); make room there and give the same command once more, with --resume "
            f"where that goes on."
        )
    return InputError(f"Cannot write {path} ({why(error)}).")


def flush(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot do this with folders
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder with those above it, where there is none."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in made:
        flush(each.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a file to the disk, under its own name at once."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Make a file, and its folder.

    Args:
        write: writes the content to the path that it is given, which takes its own name afterwards.

    Raises:
        OSError: it cannot be written; the file that was there before, if any, is as it was.
    """
    partial = path.with_name(PARTIAL + path.name)
    try:
        make_folder(path.parent)
        write(partial)
        flush(partial)
        os.replace(partial, path)
        flush(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def replace_tree(partial: Path, path: Path) -> None:
    """The same as :func:`replace_folder` for a folder, the files in which may not be on the disk yet."""
    for each in partial.rglob("*"):
        flush(each)
    replace_folder(partial, path)


def replace_folder(partial: Path, path: Path) -> None:
    """Give a folder, all of whose files are on the disk, its own name.

    Between the two moves that this takes, what had the name before is there as :func:`aside` of it.
    """
    flush(partial)
    kept = aside(path)
    if path.exists():
        if kept.exists():
            discard(kept)
        path.rename(kept)
    try:
        partial.rename(path)
    except OSError:
        settle(kept)
        raise
    flush(path.parent)
    settle(kept)


def aside(path: Path) -> Path:
    """Where the folder ``path`` is while another takes its name."""
    return path.with_name(REPLACED + path.name)


def settle(kept: Path) -> None:
    """End what began for the folder that :func:`aside` names: it gets its name back, or goes if another has it."""
    path = kept.with_name(kept.name.removeprefix(REPLACED))
    if path.exists():
        with contextlib.suppress(OSError):
            discard(kept)
    elif kept.exists():
        kept.rename(path)


def discard(path: Path) -> None:
    """Remove a folder (or file), which is never seen half-removed under its own name.

    Raises:
        OSError: it is there still, and whole.
    """
    if not path.exists() and not path.is_symlink():
        return
    doomed = path.with_name(OLD + path.name.lstrip("."))
    _remove(doomed)
    path.rename(doomed)
    _remove(doomed)


def clear(folder: Path) -> None:
    """Remove what processes that were killed left half-made or half-removed, and nothing that may be needed."""
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):
            if path.name.startswith((PARTIAL, OLD)):
                _remove(path)
            elif path.name.startswith(REPLACED):
                settle(path)


def holds_more(folder: Path) -> bool:
    """Whether there is more in a folder than what is being made or removed."""
    return folder.exists() and not (
        folder.is_dir() and all(path.name.startswith((PARTIAL, OLD)) for path in folder.iterdir())
    )


def _remove(path: Path) -> None:
    """As far as that is possible; the rest is cleared another time."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
