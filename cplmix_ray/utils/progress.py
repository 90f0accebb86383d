"""Progress of a run or of reading: a bar on a terminal and in a notebook, plain lines elsewhere."""

import html
import sys
import time
from collections.abc import Callable

from cplmix_ray.utils.standard_output import print_line


class Display:
    """Shows the number of steps done, the time left and a few figures, from ``begin`` to ``end``.

    Args:
        unit: what is counted.
        lines_on_stderr: print plain lines there: standard output of a script is the user's.
    """

    LINES, QUIET_SECONDS, BAR_SECONDS = 10, 30.0, 0.1
    """Plain lines in a run, longest time without one, and shortest time between two states of a bar."""

    def __init__(self, unit: str = "step", lines_on_stderr: bool = False) -> None:
        self.unit, self.lines_on_stderr = unit, lines_on_stderr
        self.bar: _TerminalBar | _NotebookBar | None = None
        self.first = self.shown = 0
        self.last: int | None = None
        self.begun = self.shown_at = time.monotonic()

    def begin(self, first: int, last: int) -> None:
        """Start counting from ``first`` steps done to ``last``."""
        self.first, self.last, self.shown = first, last, first
        self.begun = self.shown_at = time.monotonic()
        if _in_notebook():
            self.bar = _NotebookBar(self.unit, first, last)
        elif sys.stderr.isatty():
            self.bar = _TerminalBar(self.unit, first, last)

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if isinstance(self.bar, _TerminalBar) and sys.stdout.isatty():
            self.bar.say(line)
        else:
            print_line(line)

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """Show that ``step`` steps are done; nothing is shown before ``begin``, when the last step is not known."""
        if self.last is None or step <= self.shown:
            return
        now, last = time.monotonic(), step >= self.last
        left = (now - self.begun) / (step - self.first) * max(0, self.last - step)
        status = f"{duration(left)} left" + "".join(f", {name} {value:.4g}" for name, value in figures.items())
        if self.bar is not None:
            if last or now - self.shown_at > self.BAR_SECONDS:
                self.bar.show(step, status)
                self.shown, self.shown_at = step, now
        elif (
            last
            or step - self.shown >= (self.last - self.first) / self.LINES
            or now - self.shown_at > self.QUIET_SECONDS
        ):
            print_line(f"{self.unit} {step}/{self.last}, {status}", sys.stderr if self.lines_on_stderr else sys.stdout)
            self.shown, self.shown_at = step, now

    def end(self) -> None:
        """Leave the bar as it is."""
        if isinstance(self.bar, _TerminalBar):
            self.bar.stop()
        self.bar, self.last = None, None


class _TerminalBar:
    """A bar on standard error. It is drawn by ``show`` alone: no thread runs beside the training. What others write to
    standard error, such as warnings, appears above it; standard output is left alone."""

    def __init__(self, unit: str, first: int, last: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task(unit, total=last, completed=first, status="")
        self._bar.start()
        self.stop = self._bar.stop

    def show(self, step: int, status: str) -> None:
        self._bar.update(self._task, completed=step, status=status, refresh=True)

    def say(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _NotebookBar:
    """A bar in the output of a notebook's cell, as HTML that is replaced: the bars of rich and tqdm need ipywidgets,
    which many notebooks lack."""

    def __init__(self, unit: str, first: int, last: int) -> None:
        from IPython.display import display

        self._unit, self._last = unit, last
        self._handle = display(self._content(first, ""), raw=True, display_id=True)

    def show(self, step: int, status: str) -> None:
        self._handle.update(self._content(step, status), raw=True)

    def _content(self, step: int, status: str) -> dict[str, str]:
        line = f"{self._unit} {step}/{self._last}{', ' if status else ''}{status}"
        bar = f"<progress value='{step}' max='{self._last}' style='width: 30ex'></progress>"
        return {"text/plain": line, "text/html": f"{bar} {html.escape(line)}"}


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, and not IPython in a terminal."""
    module = sys.modules.get("IPython")
    return module is not None and hasattr(module.get_ipython(), "kernel")


def shown_check(wait: float = 3.0, lines_on_stderr: bool = False) -> Callable[[int, int], None]:
    """A callback (cells done, cells in all) that shows the progress of the first pass over cells on disk, if it takes
    longer than ``wait`` seconds."""
    display, begun, shown = Display("cells checked:", lines_on_stderr), time.monotonic(), False

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
