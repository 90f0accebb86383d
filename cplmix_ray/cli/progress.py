"""Progress of a run, a bar on a terminal and plain lines elsewhere, and the line of its scores."""

import errno
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from cplmix_ray.metrics.registry import METRICS, names_in

if TYPE_CHECKING:
    from rich.progress import Progress


class Display:
    """Shows the number of steps done, the time left and a few figures.

    Args:
        unit: what is counted.
    """

    LINES, QUIET_SECONDS, BAR_SECONDS = 10, 30.0, 0.1
    """Plain lines in a run, longest time without one, and shortest time between two states of a bar."""

    def __init__(self, unit: str = "step") -> None:
        self.unit = unit
        self.bar: Progress | None = None
        self.first = self.last = self.shown = 0
        self.begun = self.shown_at = time.monotonic()

    def begin(self, first: int, last: int) -> None:
        """Start counting from ``first`` steps done to ``last``."""
        self.first, self.last, self.shown = first, last, first
        self.begun = self.shown_at = time.monotonic()
        if sys.stderr.isatty():
            self.bar = _bar()
            self.bar.add_task(self.unit, total=last, completed=first, status="")
            self.bar.start()

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.bar is not None and sys.stdout.isatty():
            self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            _print(line)

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """Show that ``step`` steps are done."""
        if step <= self.shown:
            return
        now, last = time.monotonic(), step == self.last
        left = (now - self.begun) / (step - self.first) * (self.last - step)
        status = f"{duration(left)} left" + "".join(f", {name} {value:.4g}" for name, value in figures.items())
        if self.bar is not None:
            if last or now - self.shown_at > self.BAR_SECONDS:
                self.bar.update(self.bar.task_ids[0], completed=step, status=status, refresh=True)
                self.shown, self.shown_at = step, now
        elif (
            last
            or step - self.shown >= (self.last - self.first) / self.LINES
            or now - self.shown_at > self.QUIET_SECONDS
        ):
            _print(f"{self.unit} {step}/{self.last}, {status}")
            self.shown, self.shown_at = step, now

    def end(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    # Refreshed by ``advance`` alone: no thread runs beside the training, and standard output is left alone.
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
        console=Console(stderr=True),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def _print(line: str) -> None:
    """Print and flush. If standard output is a file on a full disk, the line stays in the buffer until it can be
    written."""
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def shown_check(wait: float = 3.0) -> Callable[[int, int], None]:
    """A callback (cells done, cells in all) that shows the progress of the first pass over cells on disk, if it takes
    longer than ``wait`` seconds."""
    display, begun, shown = Display("cells checked:"), time.monotonic(), False

    def show(done: int, total: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - begun > wait:
            display.begin(0, total)
            display.begun, shown = begun, True
        elif shown:
            display.advance(done, {})
        if done == total:
            display.end()

    return show


def duration(seconds: float) -> str:
    """Seconds in hours, minutes and seconds, as "2 min 05 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def score_line(title: str, scores: dict[str, float]) -> str:
    """The scores that are there, in one line; empty where there are none."""
    shown = [f"{METRICS[name].label} {scores[name]:.4g}" for name in names_in("summary") if name in scores]
    return f"{title}: {', '.join(shown)}" if shown else ""
