"""Exclusive use of an output folder or file by one process."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from cplmix_ray.utils.durable import make_folder, require_writable, unwritten
from cplmix_ray.utils.errors import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


def lock_folder(folder: Path, say: Callable[[str], None] = print) -> contextlib.AbstractContextManager[None]:
    """Context in which no other process uses an output folder, which is created if missing; see :func:`lock_file`."""
    return _lock(folder, folder / ".lock", say)


def lock_file(path: Path, say: Callable[[str], None] = print) -> contextlib.AbstractContextManager[None]:
    """Context in which no other process writes an output file; its folder is created if missing.

    The lock is one of the system on a hidden file, not the hidden file itself, so that a killed process leaves nothing
    that stops the next one. Folders that are still empty afterwards are removed if they were created here.

    Args:
        say: called with a sentence if the file system has no locks; the output is then written without one.

    Raises:
        InputError: another process holds the lock, the folder is not writable, or the path is that of a folder.
        DiskError: the disk is full or fails.
    """
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; give the path of a file, such as {path / 'NAME'}.")
    return _lock(path, path.with_name(f".lock-{path.name}"), say)


@contextlib.contextmanager
def _lock(output: Path, lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    folder = lock.parent
    require_writable(folder)
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    file = _open_locked(output, lock, say)
    try:
        yield
    finally:
        with contextlib.suppress(OSError), file:
            lock.unlink()
        with contextlib.suppress(OSError):  # not empty
            for each in created:
                each.rmdir()


def _open_locked(output: Path, lock: Path, say: Callable[[str], None]) -> IO[bytes]:
    while True:
        try:
            make_folder(lock.parent)
            file = open(lock, "a+b")  # noqa: SIM115  returned open
        except FileNotFoundError:  # its last user has just removed the folder
            continue
        except OSError as error:
            raise unwritten(output, error) from None
        try:
            if fcntl is None:
                raise OSError
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                user = file.read(300).decode(errors="replace") or "another process"
            raise InputError(
                f"{output} is in use by {user}; wait for its end or end it, or choose another --out."
            ) from None
        except OSError:
            say(f"The file system of {output} has no locks; let no other command write there until this one ends.")
            return file
        with contextlib.suppress(OSError):
            if lock.stat().st_ino == os.fstat(file.fileno()).st_ino:  # else its last user has just removed it
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
                file.flush()
                return file
        file.close()
