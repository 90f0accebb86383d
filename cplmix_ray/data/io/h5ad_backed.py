"""`.h5ad` files whose matrix stays on disk."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd

from cplmix_ray.data.io.h5ad_parts import is_old, read_frame, read_parts
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.hdf5_matrix import hdf5_layout
from cplmix_ray.data.matrix.on_disk import OnDiskMatrix
from cplmix_ray.data.matrix.row_sample import SAMPLED
from cplmix_ray.data.validation.hdf5_errors import hdf5_errors, ignore_warnings
from cplmix_ray.data.validation.hdf5_safety import find_object, require_safe
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrices
from cplmix_ray.data.validation.subprocess_probe import open_probed
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

Backed = Literal["auto", "yes", "no"]

_SHARE = 0.25
"""Share of the free memory that a matrix may take; it and its prepared copy are in memory at the same time."""
_READ = ("obs", "var", "obsm", "varm", "uns")
"""Parts that are read; layers, raw and obsp are not."""

RAW = "raw"
"""What ``--layer`` takes for ``adata.raw``, where no layer has this name."""


def stays_on_disk(path: str, layer: str | None, backed: Backed) -> bool:
    """The choice with 'auto' resolved: where the matrix would take more than a quarter of the memory that is free.

    Raises:
        InputError: the file cannot be read.
    """
    if backed != "auto":
        return backed == "yes"
    # A file takes at least as much in memory as on disk unless it is compressed, and then not hundreds of times that.
    free = free_memory()
    if Path(path).stat().st_size * 200 < _SHARE * free:
        return False
    with hdf5_errors(path), open_probed(path) as file:
        return _n_bytes(file, path, layer) > _SHARE * free


def _n_bytes(file: h5py.File, path: str, layer: str | None) -> int:
    """What the matrix takes in memory; 0 where there is none, which reading refuses later."""
    key = "X" if layer is None else _keys(file, path).get(layer, "X")
    require_safe(file, path, (), key)
    node = find_object(file, path, key)
    if isinstance(node, h5py.Dataset):
        return node.size * node.dtype.itemsize
    parts: list[h5py.Dataset] = [] if node is None else [node[name] for name in ("data", "indices") if name in node]
    return sum(part.size * part.dtype.itemsize for part in parts)


class OpenedH5ad(NamedTuple):
    """An object without its matrices, and the wanted one, which stays in the file.

    Attributes:
        matrix: None where there is none.
        notes: one for each entry of the object that cannot be read and was left out.
        raw_var, others: as of a ``Source``.
    """

    adata: anndata.AnnData
    matrix: OnDiskMatrix | None
    notes: tuple[str, ...]
    raw_var: pd.DataFrame | None
    others: Mapping[str, Callable[[], Matrix]]


def open_h5ad(path: str, layer: str | None) -> OpenedH5ad:
    """Open an .h5ad whose matrix stays on disk and is read by rows.

    Raises:
        InputError: the file cannot be read, or its matrix not by cells.
    """
    path = str(Path(path).resolve())  # workers may have another present folder
    raw_var, notes = None, ()  # type: pd.DataFrame | None, tuple[str, ...]
    with hdf5_errors(path), ignore_warnings(), open_probed(path) as file:
        keys = _keys(file, path)
        if layer is not None and layer not in keys:
            raise no_layer(path, layer, keys)
        key = "X" if layer is None else keys[layer]
        raw_var_key = key.removesuffix("X") + "var" if key.startswith(RAW) else None
        require_safe(file, path, (*_READ, raw_var_key) if raw_var_key else _READ, key)
        if is_old(file):
            adata, raw_var = _read_old(file, path)
        else:
            adata, notes = read_parts(file, path, _READ)
            if raw_var_key:
                raw_var, left_out = read_frame(file, path, raw_var_key)
                notes = (*notes, *left_out)
        raw_var = raw_var if raw_var_key else None
        layout = hdf5_layout(file, path, key) if key in file else None
    shape = adata.n_obs, adata.n_vars if raw_var is None else len(raw_var)
    if layout is not None and layout.shape != shape:
        raise InputError(f"{layout.key} of {path} is {layout.shape}, and obs and var say {shape}.")
    others = {name: partial(_sample, path, other) for name, other in keys.items() if name != (layer or "X")}
    return OpenedH5ad(adata, None if layout is None else OnDiskMatrix(layout), notes, raw_var, others)


def _read_old(file: h5py.File, path: str) -> tuple[anndata.AnnData, pd.DataFrame | None]:
    """The object without its matrices, and the genes of raw, from a file of anndata before 0.7, whose reader reads
    layers too."""
    require_safe(file, path, (*_READ, "layers", "raw.var", "raw.varm"), None)
    whole = anndata.read_h5ad(path, backed="r")
    try:
        adata = anndata.AnnData(None, **{name: getattr(whole, name) for name in _READ})
        raw_var = None if whole.raw is None else whole.raw.var
    finally:
        whole.file.close()
    check_sparse_matrices(adata, path)
    return adata, raw_var


def backed_matrix(adata: anndata.AnnData, name: str) -> OnDiskMatrix | None:
    """Matrix that reads X of a backed AnnData object from its file; None if the object has no X.

    Raises:
        InputError: the file was removed or replaced meanwhile, or cannot be read.
    """
    path = Path(str(adata.filename)).resolve()
    again = f"since {name} was opened; open it again with anndata.read_h5ad('{path}', backed='r')."
    if not path.exists():
        raise InputError(f"{path} was removed {again}")
    if adata.file.is_open:
        handle = adata.file["obs"].file.id.get_vfd_handle()
        if not os.path.samestat(os.fstat(handle), path.stat()):
            raise InputError(f"{path} was replaced {again}")
    with hdf5_errors(path), open_probed(path) as file:
        require_safe(file, str(path), (), "X")
        layout = hdf5_layout(file, str(path), "X") if "X" in file else None
    if layout is not None and layout.shape != adata.shape:
        raise InputError(f"X in {path} is {layout.shape}, not {adata.shape}: the file was replaced {again}")
    return None if layout is None else OnDiskMatrix(layout)


@contextlib.contextmanager
def closed_for_others(adata: anndata.AnnData) -> Iterator[None]:
    """Close the file of a backed object that is open for writing, which no other process can read meanwhile, until the
    context ends."""
    writable = adata.isbacked and adata.file.is_open and adata.file["obs"].file.mode != "r"
    if writable:
        adata.file.close()
    try:
        yield
    finally:
        if writable:
            adata.file.open()


def _keys(file: h5py.File, path: str) -> dict[str, str]:
    """What ``--layer`` takes -> where that matrix is. A layer of the name X or raw comes before those."""
    keys = {"X": "X"} if find_object(file, path, "X") is not None else {}
    # raw.X is where anndata before 0.7 wrote it.
    for key in ("raw.X", "raw/X"):
        keys |= {RAW: key} if find_object(file, path, key) is not None else {}
    layers = find_object(file, path, "layers")
    return {**keys, **{name: f"layers/{name}" for name in (layers if isinstance(layers, h5py.Group) else ())}}


def no_layer(name: str, layer: str, known: Iterable[str]) -> InputError:
    """The error for a layer that is not there."""
    return InputError(f"{name} has no layer '{layer}'; it has {listed(known)}.")


def listed(keys: Iterable[object]) -> str:
    """The first keys, for messages."""
    names = [str(key) for key in keys if key is not None]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"


def _sample(path: str, key: str) -> OnDiskMatrix:
    """Rows at even distances.

    Raises:
        InputError: they cannot be read one by one.
    """
    with hdf5_errors(path), open_probed(path) as file:
        require_safe(file, path, (), key)
        layout = hdf5_layout(file, path, key)
    return OnDiskMatrix(layout, np.arange(0, layout.shape[0], max(1, layout.shape[0] // SAMPLED)))
