"""Ends processes of a search that are stopped (SIGSTOP, a debugger), as the search would wait for them for ever.

Ray notices a process that has died, but not one that is stopped. Every trial and the process of the data sets register
in a folder of the driver's machine, where all of them run. On a Ray that this process has started, workers that are
stopped before they register are found among its descendants.
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
class StoppedProcessKiller:
    """Kills registered processes that are stopped.

    Attributes:
        folder: for this search alone, on the driver's machine.
        patience: seconds after which a stopped process is killed.
    """

    folder: Path
    patience: float

    def register(self) -> None:
        """Register this process."""
        path = self.folder / str(os.getpid())
        path.write_text(repr(psutil.Process().create_time()), encoding="utf-8")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Look for stopped processes in a thread until the context is left."""
        self.folder.mkdir(parents=True)
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), daemon=True, name="stopped processes")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event) -> None:
        interval, looked = min(2.0, self.patience / 5), time.monotonic()
        stopped = dict[psutil.Process, float]()
        while not over.wait(interval):
            # What passed while this process itself was stopped, or the machine slept, does not count.
            passed, looked = min(time.monotonic() - looked, 2 * interval), time.monotonic()
            registered = self._registered()
            found = filter(_is_stopped, registered | _ray_workers())
            stopped = {process: stopped.get(process, 0.0) + passed for process in found}
            for process, seconds in stopped.items():
                # Of the others, the workers of arms are left to the trial first, which can say what was lost.
                if seconds >= self.patience * (1.0 if process in registered else 1.5):
                    with contextlib.suppress(psutil.Error):
                        process.kill()

    def _registered(self) -> set[psutil.Process]:
        found = set()
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                process = psutil.Process(int(path.name))
                if repr(process.create_time()) == path.read_text(encoding="utf-8"):  # else a later one of this number
                    found.add(process)
        return found


def _is_stopped(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    return False


def _ray_workers() -> set[psutil.Process]:
    """Workers of the Ray that this process has started, if it has."""
    found, children = set(), list[psutil.Process]()
    with contextlib.suppress(psutil.Error):
        children = psutil.Process().children(recursive=True)
    for process in children:
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if parent is not None and parent.name() == "raylet":
                found.add(process)
    return found
