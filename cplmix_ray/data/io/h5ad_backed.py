"""`.h5ad` files whose matrix stays on disk."""

from pathlib import Path
from typing import Literal

import anndata
import h5py
from anndata.io import read_elem

from cplmix_ray.data.matrix.hdf5_matrix import hdf5_errors, hdf5_layout, ignore_warnings, unreadable
from cplmix_ray.data.matrix.on_disk import OnDiskMatrix
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
    require_safe(file, path, (), _key(layer))
    node = find_object(file, path, _key(layer))
    if isinstance(node, h5py.Dataset):
        return node.size * node.dtype.itemsize
    parts: list[h5py.Dataset] = [] if node is None else [node[name] for name in ("data", "indices") if name in node]
    return sum(part.size * part.dtype.itemsize for part in parts)


def open_h5ad(path: str, layer: str | None) -> tuple[anndata.AnnData, OnDiskMatrix | None]:
    """The object without its matrices, and the wanted one, which stays in the file; None where there is none.

    Raises:
        InputError: the file cannot be read, or its matrix not by cells.
    """
    path = str(Path(path).resolve())  # workers may have another present folder
    with hdf5_errors(path), ignore_warnings(), open_probed(path) as file:
        require_safe(file, path, _READ, _key(layer))
        parts = {name: read_elem(file[name]) for name in _READ if name in file}
        adata = anndata.AnnData(None, **parts)
        layout = hdf5_layout(file, path, _key(layer)) if _key(layer) in file else None
        if layer is not None and layout is None:
            has = ", ".join(file["layers"]) if "layers" in file and len(file["layers"]) else "none"
            raise InputError(f"{path} has no layer '{layer}'; it has {has}.")
    check_sparse_matrices(adata, path)
    if layout is not None and layout.shape != adata.shape:
        raise unreadable(path, ValueError(f"{layout.key} is {layout.shape}, obs and var say {adata.shape}"))
    return adata, None if layout is None else OnDiskMatrix(layout)


def _key(layer: str | None) -> str:
    return "X" if layer is None else f"layers/{layer}"
