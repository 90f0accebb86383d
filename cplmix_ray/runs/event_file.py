"""A writer of TensorBoard event files."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cplmix_ray.utils.durable import why

_FLUSH_SECONDS = 10.0
_MOST_BYTES = 8 << 20


class ScalarFile:
    """Writes scalars; errors while writing do not stop training.

    Used in place of torch's SummaryWriter, which writes in a thread: on a full disk that thread ends with a traceback
    and an incomplete record, and the next scalar raises an error. Here scalars are kept in memory until they can be
    written.

    Args:
        first_step: points from this step on that an earlier writer left in the folder are hidden.
        say: called with a message when scalars cannot be written, and when they can be written again.
    """

    def __init__(self, folder: Path, first_step: int, say: Callable[[str], None]):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder, self._say = folder, say
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._handle: int | None = None
        self._on_disk = 0
        self._waiting = bytearray()
        self._records = RecordWriter(_Appending(self._waiting))
        self._failing = False
        self._add(file_version="brain.Event:2")
        self._add(step=first_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
        self.flush()

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars by tag; they are written after at most ten seconds."""
        if len(self._waiting) < _MOST_BYTES:
            summary = [self._summary.Value(tag=tag, simple_value=float(value)) for tag, value in values.items()]
            self._add(step=step, summary=self._summary(value=summary))
        if time.monotonic() - self._tried > _FLUSH_SECONDS:
            self.flush()

    def add_summary(self, summary: Any) -> None:
        """Add a summary of another kind, as defined by TensorBoard's plug-ins."""
        self._add(step=0, summary=summary)

    def flush(self) -> None:
        """Write all scalars that are in memory."""
        self._tried = time.monotonic()
        try:
            self._write()
        except OSError as error:
            if not self._failing:
                self._say(
                    f"Scalars for TensorBoard cannot be written to {self._folder} ({why(error)}); training continues, "
                    f"and they are kept in memory until they can be written."
                )
            self._failing = True
        else:
            if self._failing:
                self._say("Scalars for TensorBoard are written again.")
            self._failing = False

    def close(self) -> None:
        self.flush()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _add(self, **fields) -> None:
        event = self._event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())

    def _write(self) -> None:
        if self._handle is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"events.out.tfevents.{_next_time(self._folder)}.{socket.gethostname()}.{os.getpid()}"
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
            self._on_disk = 0
        written = 0
        try:
            while written < len(self._waiting):
                written += os.write(self._handle, bytes(self._waiting[written:]))
        except OSError:
            with contextlib.suppress(OSError):  # otherwise readers stop at the incomplete record
                os.ftruncate(self._handle, self._on_disk)
                written = 0
            del self._waiting[:written]
            raise
        self._on_disk += written
        self._waiting.clear()


class _Appending:
    """The part of a file object that RecordWriter uses; it appends to a byte array."""

    def __init__(self, to: bytearray):
        self.write = to.extend


def _next_time(folder: Path) -> str:
    """The time as in the name of an event file, by which TensorBoard orders the files of a folder.

    In nanoseconds, since a killed run may be resumed within a second, and later than the existing files, since it may
    be resumed on a machine with a slow clock.
    """
    names = [path.name.split(".") for path in folder.glob("events.out.tfevents.*")]
    newest = max((int(parts[3]) for parts in names if len(parts) > 3 and parts[3].isdecimal()), default=0)
    now = time.time_ns()
    seconds, nanoseconds = divmod(now, 10**9)
    if newest > seconds:
        seconds, nanoseconds = newest + 1, 0
    return f"{seconds:010d}.{nanoseconds:09d}"
