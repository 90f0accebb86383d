"""Errors as one sentence and an exit status: 0 success, 2 invalid input, 1 any other error."""

import contextlib
import io
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

from cplmix_ray.utils.errors import InputError, TrainingError, in_one_line
from cplmix_ray.utils.extensions import load_extensions
from cplmix_ray.utils.home import expand_home_in_options
from cplmix_ray.utils.library_caches import use_temporary_caches
from cplmix_ray.utils.standard_output import discard_output


def run_command(command: Callable[[list[str]], None]) -> None:
    """Run a command with the arguments of the process; errors end the process."""
    for stream in (sys.stdout, sys.stderr):  # names of files and genes may have letters that the terminal lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # Cell names may repeat. Repeated gene names have an error message of their own.
    warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
    # Of shared memory that cannot be used; only processes of joblib would need it.
    warnings.filterwarnings("ignore", message=".*joblib will operate in serial mode", category=UserWarning)
    try:
        with _termination_as_interruption():
            use_temporary_caches()
            load_extensions()
            command(expand_home_in_options(sys.argv[1:]))
    except InputError as error:
        _leave(f"error: {error}", 2)
    except TrainingError as error:
        _leave(f"error: {error}", 1)
    except KeyboardInterrupt:
        _leave("Interrupted; the newest checkpoint is kept. Repeat the command with --resume to continue from it.", 1)
    except MemoryError as error:
        what = f" ({error})" if str(error) else ""
        _leave(f"error: There is not enough memory{what}; try --backed yes, fewer arms, or smaller layers.", 1)
    except BrokenPipeError as error:
        if not _reader_is_gone():
            _leave(f"error: {error.strerror or error}.", 1)
        discard_output(sys.stdout)
        sys.exit(1)
    except PermissionError as error:  # of input: what cannot be written is an InputError
        what = "Permission denied" + (f": {error.filename}" if error.filename else "")
        _leave(f"error: {what}; ask the owner of the file or of the folders above it for access.", 2)
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


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe that nothing reads any more, as after ``| head``."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave(sentence: str, status: int) -> None:
    print(in_one_line(sentence), file=sys.stderr)
    sys.exit(status)
