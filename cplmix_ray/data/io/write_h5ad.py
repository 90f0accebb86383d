"""Cells as a file."""

import gc
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import anndata

from cplmix_ray.checkpoints.run_folder import write_whole


def write_cells(path: Path, adata: anndata.AnnData, **how: Any) -> None:
    """Write cells as a whole `.h5ad` or none.

    Args:
        how: compression, as ``AnnData.write_h5ad`` takes it.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    write_whole(path, lambda partial: _write_h5ad(partial, adata, how))


def _write_h5ad(path: Path, adata: anndata.AnnData, how: dict[str, Any]) -> None:
    """On a full disk, HDF5 fails again for each part that it lets go of, and tells the terminal of each by a traceback:
    the first error says it all.

    Raises:
        OSError: it cannot be written.
    """
    told, hooks = None, (sys.excepthook, sys.unraisablehook)
    sys.excepthook = lambda *_: None
    sys.unraisablehook = lambda _: None
    try:
        try:
            adata.write_h5ad(path, **how)
        except (OSError, RuntimeError) as error:  # HDF5 has both for a failed write, by what it was doing
            if (number := _errno_of(error)) is None:
                raise
            told = OSError(number, os.strerror(number))
            traceback.clear_frames(error.__traceback__)
        if told is not None:
            gc.collect()
    finally:
        sys.excepthook, sys.unraisablehook = hooks
    if told is not None:
        raise told


def _errno_of(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    named = re.search(r"errno = ([0-9]+)", str(error))
    return int(named[1]) if named else None
