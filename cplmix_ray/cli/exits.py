"""From errors to one sentence and an exit status: 0 done, 2 bad input, 1 anything else."""

import contextlib
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

from cplmix_ray.errors import InputError, TrainingError


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
    print(sentence, file=sys.stderr)
    sys.exit(status)
