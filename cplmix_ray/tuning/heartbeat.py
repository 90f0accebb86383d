"""Signs of life of a search's processes: one that is frozen would keep the search waiting for ever.

Every trial, and the keeper of the data, has a file in a folder of the driver's machine, where all of them have their
seats, and touches it. One that is stopped before it has its file is known by its state.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Pulses:
    """Where processes leave their signs of life.

    Attributes:
        folder: theirs alone, on the driver's machine.
        patience: seconds of silence after which a process is ended.
    """

    folder: Path
    patience: float

    def beat(self) -> None:
        """From now on touch a file named after this process, several times within the patience."""
        path = self.folder / str(os.getpid())
        path.write_text(repr(psutil.Process().create_time()), encoding="utf-8")

        def touch() -> None:
            with contextlib.suppress(OSError):  # the folder goes when the search has ended
                while True:
                    time.sleep(min(5.0, self.patience / 5))
                    os.utime(path)

        threading.Thread(target=touch, daemon=True, name="pulse").start()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile kill processes that give no sign of life, so that they are noticed."""
        self.folder.mkdir(parents=True)
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), daemon=True, name="watch")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        every, looked = min(2.0, self.patience / 5), time.monotonic()
        seen, stopped = dict[Path, tuple[int, float]](), dict[psutil.Process, float]()
        while not over.wait(every):
            # After the machine has slept, or this process was stopped, all have been silent.
            passed, looked = min(time.monotonic() - looked, 2 * every), time.monotonic()
            for path in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    touched = path.stat().st_mtime_ns
                    last, silent = seen.get(path, (0, 0.0))
                    seen[path] = (touched, silent + passed if touched == last else 0.0)
                    if seen[path][1] >= self.patience:
                        _kill(path)
                        path.unlink()
            stopped = {process: stopped.get(process, 0.0) + passed for process in _stopped_workers()}
            for process, silent in stopped.items():
                # Whoever else waits for it comes first, and can say what was lost.
                if silent >= 1.5 * self.patience:
                    with contextlib.suppress(psutil.Error):
                        process.kill()


def _stopped_workers() -> list[psutil.Process]:
    """Workers of the Ray that this process has started, if it has, which are stopped."""
    found, children = [], list[psutil.Process]()
    with contextlib.suppress(psutil.Error):
        children = psutil.Process().children(recursive=True)
    for process in children:
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if process.status() == psutil.STATUS_STOPPED and parent is not None and parent.name() == "raylet":
                found.append(process)
    return found


def _kill(path: Path) -> None:
    with contextlib.suppress(psutil.Error, ValueError):
        process = psutil.Process(int(path.name))
        if repr(process.create_time()) == path.read_text(encoding="utf-8"):
            process.kill()
