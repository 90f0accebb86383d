"""From errors to one sentence and an exit status: 0 done, 2 bad input, 1 anything else."""

import contextlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

from cplmix_ray.utils.errors import InputError, TrainingError

_LONGEST = 2000
"""Characters of a sentence; longer ones lose their middle."""


def run_command(command: Callable[[list[str]], None]) -> None:
    """Run a command on the words of the command line and leave the process."""
    # Cells may share a name; genes may not, and that is said in an error of its own.
    warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
    try:
        with _termination_as_interruption():
            command(sys.argv[1:])
    except InputError as error:
        _leave(f"error: {error}", 2)
    except TrainingError as error:
        _leave(f"error: {error}", 1)
    except KeyboardInterrupt:
        _leave("Interrupted; the newest checkpoint stays, and the same command with --resume goes on from it.", 1)
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        _leave(f"error: There is not enough memory{what}; try --backed yes, fewer arms, or smaller layers.", 1)
    except OSError as error:
        _leave(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}.", 1)


@contextlib.contextmanager
def _termination_as_interruption() -> Iterator[None]:
    """SIGTERM, by which clusters say that they take a machine away, ends a command as Ctrl-C does: in good order."""

    def interrupt(*_) -> None:
        # A search heeds Ctrl-C in its own way; a shell may have told a program in the background to ignore it.
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(sentence: str, status: int) -> None:
    print(in_one_line(sentence), file=sys.stderr)
    sys.exit(status)


def in_one_line(sentence: str) -> str:
    """The sentence in one line of moderate length, and nothing in it that a terminal would obey: files name things."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(sentence.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
