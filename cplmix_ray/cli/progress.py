"""How a run looks while it goes on: a bar on a terminal, plain lines elsewhere."""

import errno
import sys
import time
from collections.abc import Callable

from tqdm import tqdm


class Display:
    """Shows the steps done, the time left and a few figures.

    Args:
        unit: what is counted.
    """

    LINES, QUIET_SECONDS = 10, 30.0

    def __init__(self, unit: str = "step") -> None:
        self.unit = unit
        self.bar: tqdm | None = None
        self.first = self.last = self.told = 0
        self.begun = self.told_at = time.monotonic()

    def begin(self, first: int, last: int) -> None:
        """Start counting from ``first`` steps done to ``last``."""
        self.first, self.last, self.told = first, last, first
        self.begun = self.told_at = time.monotonic()
        if sys.stderr.isatty():
            self.bar = tqdm(total=last, initial=first, unit=self.unit, dynamic_ncols=True, smoothing=0.05)

    def say(self, line: str) -> None:
        """A line of its own, above the bar where there is one."""
        if self.bar is not None:
            self.bar.write(line)
        else:
            _print(line)

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """Show that ``step`` steps are done."""
        if self.bar is not None:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
            self.bar.update(step - self.bar.n)
            return
        now = time.monotonic()
        due = step - self.told >= (self.last - self.first) / self.LINES or now - self.told_at > self.QUIET_SECONDS
        if (due or step == self.last) and step > self.told:
            left = (now - self.begun) / (step - self.first) * (self.last - step)
            shown = "".join(f", {name} {value:.4g}" for name, value in figures.items())
            _print(f"{self.unit} {step}/{self.last}, {duration(left)} left{shown}")
            self.told, self.told_at = step, now

    def end(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _print(line: str) -> None:
    """Print at once. Where lines go to a file on a disk that is full, they wait until they can be written."""
    try:
        print(line, flush=True)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def shown_check(wait: float = 3.0) -> Callable[[int, int], None]:
    """Shows how far the first pass over cells on disk is, where it takes longer than ``wait`` seconds."""
    display, begun, shown = Display("cells checked:"), time.monotonic(), False

    def show(done: int, of: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - begun > wait:
            display.begin(0, of)
            display.begun, shown = begun, True
        elif shown:
            display.advance(done, {})
        if done == of:
            display.end()

    return show


def duration(seconds: float) -> str:
    """Seconds as words."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
