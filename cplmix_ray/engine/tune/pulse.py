"""Signs of life of the trials' processes: one that is frozen would keep the search waiting for ever.

Every process that is set up has a file in a folder of the driver's machine, where all trials have their seats, and
touches it.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil


def beat(folder: Path, patience: float) -> None:
    """From now on touch a file named after this process, several times within ``patience`` seconds."""
    path = folder / str(os.getpid())
    path.write_text(repr(psutil.Process().create_time()), encoding="utf-8")

    def touch() -> None:
        with contextlib.suppress(OSError):  # the folder goes when the search has ended
            while True:
                time.sleep(min(5.0, patience / 5))
                os.utime(path)

    threading.Thread(target=touch, daemon=True, name="pulse").start()


@contextlib.contextmanager
def watched(folder: Path, patience: float) -> Iterator[None]:
    """Meanwhile kill processes that have not touched their files for ``patience`` seconds, so that they are noticed."""
    folder.mkdir(parents=True)
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, patience, over), daemon=True, name="watch")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(folder: Path, patience: float, over: threading.Event) -> None:
    # Time is that of the waits here and not of the clock: after a machine has slept, all processes have been silent.
    every, seen = min(2.0, patience / 5), dict[Path, tuple[int, float]]()
    while not over.wait(every):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                touched = path.stat().st_mtime_ns
                last, silent = seen.get(path, (0, 0.0))
                seen[path] = (touched, silent + every if touched == last else 0.0)
                if seen[path][1] >= patience:
                    _kill(path)
                    path.unlink()


def _kill(path: Path) -> None:
    with contextlib.suppress(psutil.Error, ValueError):
        process = psutil.Process(int(path.name))
        if repr(process.create_time()) == path.read_text(encoding="utf-8"):
            process.kill()
