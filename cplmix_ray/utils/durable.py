"""Atomic, durable writes: a file or folder is complete or absent, whenever the process or the machine stops.

Content is written under a hidden name, flushed to the disk, and then renamed; what had the name before is only deleted
afterwards.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cplmix_ray.utils.errors import DiskError, InputError

PARTIAL, REPLACED, OLD = ".partial-", ".replaced-", ".old-"
"""Prefixes of hidden names: of what is being written; of a folder that is being replaced, which is valid until its
replacement has the name; of what is being removed."""


def why(error: OSError) -> str:
    """The reason of an error: the system's message, as libraries replace it by paragraphs."""
    return os.strerror(error.errno) if error.errno else " ".join(str(error).split())


def unwritten(path: Path, error: OSError) -> InputError | DiskError:
    """The error for a path that cannot be written: DiskError if the disk is full or fails, else InputError."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return DiskError(
            f"Cannot write {path} ({why(error)}); make room there and repeat the command, with --resume for a run "
            f"that had begun."
        )
    return InputError(f"Cannot write {path} ({why(error)}).")


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk (fsync)."""
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system does not support this for folders
            raise
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, if missing, and flush their names to the disk."""
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for each in made:
        flush(each.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a file under its final name and flush it to the disk."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write or replace a file, creating its folder if needed.

    Args:
        write: writes the content to the path that it is given; the file is renamed to ``path`` afterwards.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
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
    """Like :func:`replace_folder`, after flushing the files in the folder to the disk."""
    for each in partial.rglob("*"):
        flush(each)
    replace_folder(partial, path)


def replace_folder(partial: Path, path: Path) -> None:
    """Rename a folder whose files are on the disk to ``path``, replacing a folder of that name.

    This takes two renames; between them, the old folder has the name that :func:`aside` returns.
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
    """Name of the old folder ``path`` while it is being replaced."""
    return path.with_name(REPLACED + path.name)


def settle(kept: Path) -> None:
    """Finish a replacement: the folder that :func:`aside` names is removed, or renamed back if nothing replaced it."""
    path = kept.with_name(kept.name.removeprefix(REPLACED))
    if path.exists():
        with contextlib.suppress(OSError):
            discard(kept)
    elif kept.exists():
        kept.rename(path)


def discard(path: Path) -> None:
    """Remove a folder or file; it is never partly removed under its own name.

    Raises:
        OSError: it cannot be removed; it is still there and complete.
    """
    if not path.exists() and not path.is_symlink():
        return
    doomed = path.with_name(OLD + path.name.lstrip("."))
    _remove(doomed)
    path.rename(doomed)
    _remove(doomed)


def clear(folder: Path) -> None:
    """Remove what killed processes left partly written or partly removed, and restore what they were replacing."""
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):
            if path.name.startswith((PARTIAL, OLD)):
                _remove(path)
            elif path.name.startswith(REPLACED):
                settle(path)


def holds_more(folder: Path) -> bool:
    """Whether a folder holds anything besides what is being written or removed."""
    return folder.exists() and not (
        folder.is_dir() and all(path.name.startswith((PARTIAL, OLD)) for path in folder.iterdir())
    )


def _remove(path: Path) -> None:
    """Remove as much as possible; :func:`clear` removes the rest later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Check that files can be made in a folder that may not exist yet, and leave nothing behind.

    Raises:
        InputError: they cannot.
    """
    there = folder
    try:
        while not there.exists() and there != there.parent:
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"Cannot write to {folder} ({why(error)}); choose another folder with --out.") from None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make a file, and its folder, so that it is there whole or not at all.

    Args:
        write: writes the content to the path that it is given, which takes its own name afterwards.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    try:
        replace_file(path, write)
    except OSError as error:
        raise unwritten(path, error) from None


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write a whole file of JSON or none.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    write_whole(path, lambda partial: partial.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8"))


def append_line(path: Path, line: bytes) -> None:
    """Append a line to a file, made with its folder where there is none; it is on the disk when this returns.

    A last line that a kill cut short is ended first.
    """
    make_folder(path.parent)
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
