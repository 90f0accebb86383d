"""Writing `.h5ad` files."""

import gc
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any

import anndata
import h5py
from anndata.io import write_elem

from cplmix_ray.utils.durable import write_whole
from cplmix_ray.utils.errors import InputError


def write_cells(path: Path, adata: anndata.AnnData, **how: Any) -> None:
    """Write cells as a whole `.h5ad` or none.

    Args:
        how: compression, as ``AnnData.write_h5ad`` takes it.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    write_whole(path, lambda partial: _write_h5ad(partial, adata, how))


def require_writable_h5ad(adata: anndata.AnnData, name: str) -> None:
    """Refuse an object that can be read and not be written, before a training whose result could not be saved.

    Raises:
        InputError: naming it.
    """
    try:
        with h5py.File("trial", "w", driver="core", backing_store=False) as file:
            write_elem(file, "cells", adata[:1, :1].copy())
    except Exception as error:  # many kinds, for all that an object can hold
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name} holds something that cannot be written to an .h5ad again ({reason}); take it out."
        ) from None


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
