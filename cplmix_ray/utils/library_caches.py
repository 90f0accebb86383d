"""Caches of libraries on machines where a user has no home folder, as in many containers."""

import atexit
import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def use_temporary_caches() -> None:
    """Keep the caches of numba and Matplotlib in a temporary folder if the home folder cannot be written to.

    Without it, scanpy cannot be imported where its own folder cannot be written to either, and Matplotlib warns. To be
    called before they are imported; folders that the user has set are kept.
    """
    with contextlib.suppress(RuntimeError):  # there is no home
        if os.access(Path.home(), os.W_OK):
            return
    with contextlib.suppress(OSError):
        folder = tempfile.mkdtemp(prefix="cplmix-cache-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ.setdefault("NUMBA_CACHE_DIR", folder)
        os.environ.setdefault("MPLCONFIGDIR", folder)
