"""Printing of lines where the output may be a pipe that nothing reads any more, or a file on a full disk."""

import errno
import os
import sys
from typing import TextIO


def print_line(line: str, file: TextIO | None = None) -> None:
    """Print and flush; default: to standard output. If it is a file on a full disk, the line stays in the buffer until
    it can be written; if it is a pipe that nothing reads any more, the run continues without output."""
    file = sys.stdout if file is None else file
    try:
        print(line, file=file, flush=True)
    except BrokenPipeError:
        discard_output(file)
        if file is sys.stdout:
            print("Standard output is closed; the run continues.", file=sys.stderr)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def discard_output(file: TextIO) -> None:
    """Discard what is printed from now on, and what could not be printed before."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), file.fileno())
