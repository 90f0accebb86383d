"""Writing `.h5ad` files."""

import errno
import gc
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import h5py
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem

from cplmix_ray.data.validation.hdf5_errors import ignore_warnings, reason_of
from cplmix_ray.utils.durable import write_whole
from cplmix_ray.utils.errors import InputError, in_one_line

_RESERVED = "_index"
"""Column name that anndata refuses to write."""


def write_cells(path: Path, adata: anndata.AnnData, **how: Any) -> None:
    """Write cells as a whole `.h5ad` or none.

    Args:
        how: compression, as ``AnnData.write_h5ad`` takes it.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    write_whole(path, lambda partial: _write_h5ad(partial, adata, how))


def leave_out_unwritable(adata: anndata.AnnData, name: str) -> tuple[str, ...]:
    """Remove the entries of an object that cannot be written to an .h5ad, so that the results can be saved later.

    Returns:
        A note for each entry that was taken out or renamed.

    Raises:
        InputError: the object cannot be written even so.
    """
    if _failure(lambda: adata[:1, :1].copy()) is None:
        return ()
    removal = _Removal(name)
    adata.obs, adata.var = removal.columns(adata.obs, "obs"), removal.columns(adata.var, "var")
    if adata.raw is not None:
        var = removal.columns(adata.raw.var, "raw/var")
        adata.raw = anndata.AnnData(adata.raw.X, var=var, varm=dict(adata.raw.varm))
    for part in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        setattr(adata, part, removal.entries(getattr(adata, part), part))
    reason = _failure(lambda: adata[:1, :1].copy())
    if reason is not None:
        raise InputError(f"{name} cannot be written as an .h5ad again: {reason}; take out what that is.")
    return tuple(map(in_one_line, removal.notes))


class _Removal:
    """Removes entries that cannot be written, and collects a note for each."""

    def __init__(self, name: str):
        self.name = name
        self.notes: list[str] = []

    def remove(self, key: str, reason: str) -> None:
        self.notes.append(f"{key} of {self.name} cannot be written to an .h5ad, so the results lack it: {reason}.")

    def columns(self, frame: pd.DataFrame, key: str) -> pd.DataFrame:
        """The columns of a frame that can be written; of columns of the same name the first."""
        if _RESERVED in frame:  # as in files by SeuratDisk
            frame = frame.rename(columns={_RESERVED: "index_"})
            self.notes.append(f"{key}/{_RESERVED} of {self.name} is {key}/index_ in the results: the name is reserved.")
        kept, names = [], list(frame.columns)
        for at, name in enumerate(names):
            reason = "the name is used twice" if name in names[:at] else _failure(partial(_first, frame.iloc[:, [at]]))
            if reason is None:
                kept.append(at)
            else:
                self.remove(f"{key}/{name}", reason)
        return frame if len(kept) == len(names) else frame.iloc[:, kept].copy()

    def entries(self, mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The entries of a mapping, at any depth, that can be written."""
        kept: dict[str, Any] = {}
        for name, value in mapping.items():
            below = f"{key}/{name}"
            if isinstance(value, pd.DataFrame):
                kept[name] = self.columns(value, below)
            elif isinstance(value, Mapping):
                kept[name] = self.entries(value, below)
            elif (reason := _failure(partial(_first, value))) is None:
                kept[name] = value
            else:
                self.remove(below, reason)
        return kept


def _first(value: Any) -> Any:
    """A small part of a value, as its kind decides whether it can be written."""
    return value[:1] if getattr(value, "shape", ()) else value


def _failure(some: Callable[[], Any]) -> str | None:
    """Why a part of an object cannot be written, or None if it can."""
    try:
        with h5py.File("trial", "w", driver="core", backing_store=False) as file, _any_strings():
            write_elem(file, "trial", some())
    except Exception as error:  # many kinds, for all that an object can hold
        return reason_of(error)
    return None


@contextmanager
def _any_strings() -> Iterator[None]:
    """Let anndata write strings with missing values, and names with a slash, since it reads them."""
    with anndata.settings.override(allow_write_nullable_strings=True), ignore_warnings():
        yield


def _write_h5ad(path: Path, adata: anndata.AnnData, how: dict[str, Any]) -> None:
    """On a full disk, HDF5 fails again for each part that it lets go of, and tells the terminal of each by a traceback:
    the first error says it all.

    Raises:
        OSError: it cannot be written.
    """
    if not how.get("compression") and _least_size(adata) > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # before HDF5 finds it out, which can end the process
    told, hooks = None, (sys.excepthook, sys.unraisablehook)
    sys.excepthook = lambda *_: None
    sys.unraisablehook = lambda _: None
    try:
        try:
            with _any_strings():
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


def _least_size(adata: anndata.AnnData) -> int:
    """Bytes that the arrays in memory take in a file without compression; text takes more than is counted."""
    arrays = [] if adata.isbacked else [adata.X]
    for part in (adata.layers, adata.obsm, adata.varm, adata.obsp, adata.varp):
        arrays += part.values()
    parts = [part for each in arrays for part in (_sparse_parts(each) if sp.issparse(each) else [each])]
    return sum(getattr(part, "nbytes", 0) for part in parts)


def _sparse_parts(values_ng: Any) -> list[Any]:
    return [getattr(values_ng, name) for name in ("data", "indices", "indptr") if hasattr(values_ng, name)]


def _errno_of(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    named = re.search(r"errno = ([0-9]+)", str(error))
    return int(named[1]) if named else None
