"""Whether the cells of an `.h5ad` stay in the file, and all that is read of it when they do."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anndata
import h5py
from anndata.io import read_elem

from cplmix_ray.data.matrix.hdf5_matrix import Layout, layout_of, quiet, reading, unreadable
from cplmix_ray.data.validation.hdf5_safety import member, require_enclosed
from cplmix_ray.data.validation.sparse_checks import require_sound
from cplmix_ray.data.validation.subprocess_probe import rehearsed
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

Backed = Literal["auto", "yes", "no"]

_SHARE = 0.25
"""Of the free memory; what was read and what was made of it are there at the same time, and more while it is made."""
_READ = ("obs", "var", "obsm", "varm", "uns")
"""Parts that are read; matrices of cells x genes, and of cells x cells, stay where they are."""


@dataclass(frozen=True)
class DiskUse:
    """Whether cells stay on disk, and who is told how far the first pass over them is.

    Attributes:
        show: told how many of how many cells were looked at, again and again.
    """

    backed: Backed = "auto"
    show: Callable[[int, int], None] = lambda done, of: None


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
    with reading(path), rehearsed(path) as file:
        return _n_bytes(file, path, layer) > _SHARE * free


def _n_bytes(file: h5py.File, path: str, layer: str | None) -> int:
    """What the matrix takes in memory; 0 where there is none, of which reading will tell."""
    require_enclosed(file, path, (), _key(layer))
    node = member(file, path, _key(layer))
    if isinstance(node, h5py.Dataset):
        return node.size * node.dtype.itemsize
    parts: list[h5py.Dataset] = [] if node is None else [node[name] for name in ("data", "indices") if name in node]
    return sum(part.size * part.dtype.itemsize for part in parts)


def read_around(path: str, layer: str | None) -> tuple[anndata.AnnData, Layout | None]:
    """The object without its matrices, and where the wanted one lies; None where there is none.

    Raises:
        InputError: the file cannot be read, or its matrix not by cells.
    """
    path = str(Path(path).resolve())  # workers may have another present folder
    with reading(path), quiet(), rehearsed(path) as file:
        require_enclosed(file, path, _READ, _key(layer))
        parts = {name: read_elem(file[name]) for name in _READ if name in file}
        adata = anndata.AnnData(None, **parts)
        layout = layout_of(file, path, _key(layer)) if _key(layer) in file else None
        if layer is not None and layout is None:
            has = ", ".join(file["layers"]) if "layers" in file and len(file["layers"]) else "none"
            raise InputError(f"{path} has no layer '{layer}'; it has {has}.")
    require_sound(adata, path)
    if layout is not None and layout.shape != adata.shape:
        raise unreadable(path, ValueError(f"{layout.key} is {layout.shape}, obs and var say {adata.shape}"))
    return adata, layout


def _key(layer: str | None) -> str:
    return "X" if layer is None else f"layers/{layer}"
