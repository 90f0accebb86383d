"""Errors as one sentence and an exit status: 0 success, 2 invalid input, 1 any other error."""

import contextlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

from cplmix_ray.utils.errors import InputError, TrainingError
from cplmix_ray.utils.extensions import load_extensions

_LONGEST = 2000
"""Largest number of characters of an error message; longer ones are shortened in the middle."""


def run_command(command: Callable[[list[str]], None]) -> None:
    """Run a command with the arguments of the process; errors end the process."""
    # Cell names may repeat. Repeated gene names have an error message of their own.
    warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
    try:
        with _termination_as_interruption():
            load_extensions()
            command(sys.argv[1:])
    except InputError as error:
        _leave(f"error: {error}", 2)
    except TrainingError as error:
        _leave(f"error: {error}", 1)
    except KeyboardInterrupt:
        _leave("Interrupted; the newest checkpoint is kept. Repeat the command with --resume to continue from it.", 1)
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        _leave(f"error: There is not enough memory{what}; try --backed yes, fewer arms, or smaller layers.", 1)
    except OSError as error:
        _leave(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}.", 1)


@contextlib.contextmanager
def _termination_as_interruption() -> Iterator[None]:
    """Handle SIGTERM, which clusters send before they take a machine away, like Ctrl-C: the command ends cleanly."""

    def interrupt(*_) -> None:
        # A search has its own handler of SIGINT. In a background process, the shell may have set SIGINT to be ignored.
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
    """The sentence in one line of limited length, without control characters, which names from files may contain."""
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(sentence.split()))
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
