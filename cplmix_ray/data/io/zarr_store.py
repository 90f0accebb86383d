"""`.zarr` stores, a folder or a `.zarr.zip` file."""

import contextlib
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from cplmix_ray.data.io.cell_format import CellFormat, ReadOptions
from cplmix_ray.data.io.cells_in_memory import format_errors, source_in_memory
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.regular_file import require_file
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrices
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

_CODECS = {
    *("blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "bytes", "transpose", "sharding_indexed"),
    *("vlen-utf8", "vlen-bytes", "delta", "shuffle", "packbits", "bitround", "fixedscaleoffset", "quantize"),
    *("crc32", "crc32c", "adler32", "fletcher32"),
}
"""Codecs that only compute; others could run code from the store, as pickle does."""
_OBJECT_BYTES = 64


def read_zarr(data: str, options: ReadOptions) -> Source:
    """Read an AnnData object from a zarr store into memory."""
    import anndata

    with format_errors(data, "a .zarr store of AnnData"), _open_group(data) as group:
        _require_safe(group, data)
        adata = anndata.io.read_zarr(group)
    check_sparse_matrices(adata, data)
    return source_in_memory(adata, data, options)


@contextlib.contextmanager
def _open_group(data: str) -> Iterator[Any]:
    import zarr

    if Path(data).is_dir():
        for folder, folders, files in os.walk(data):
            for path in (Path(folder) / name for name in folders + files):
                if path.is_symlink() or not (path.is_dir() or path.is_file()):
                    raise InputError(f"{path} is a link or no regular file; write the store again with write_zarr.")
        yield zarr.open_group(data, mode="r", use_consolidated=False)  # what is there, not a list of it
        return
    require_file(data, "--data")
    store = zarr.storage.ZipStore(data, mode="r")
    try:
        yield zarr.open_group(store, mode="r", use_consolidated=False)
    finally:
        store.close()


def _require_safe(group: Any, data: str) -> None:
    """Refuse codecs that could run code, and arrays or chunks that do not fit into memory."""
    n_bytes, free = 0, free_memory()
    for name, array in _arrays(group):
        codecs = [getattr(array.metadata, key, None) for key in ("compressor", "filters", "codecs")]
        unknown = sorted(_names(codecs) - _CODECS)
        if unknown:
            raise InputError(f"{name} of {data} needs the codec {unknown[0]}, which is not allowed; write it again.")
        each = _OBJECT_BYTES if array.dtype.kind in "OTU" else array.dtype.itemsize
        n_bytes += prod(array.shape) * each
        if max(n_bytes, prod(array.chunks) * each) > free:
            raise InputError(
                f"{data} takes more than the {free / 2**30:,.1f} GB of memory that are free; write it as an .h5ad, "
                f"which can stay on disk."
            )


def _arrays(group: Any) -> Iterator[tuple[str, Any]]:
    for name, member in group.members():
        if hasattr(member, "shape"):
            yield name, member
        else:
            yield from ((f"{name}/{below}", array) for below, array in _arrays(member))


def _names(codecs: Any) -> set[str]:
    """Names of the codecs in a nested sequence of them, or of their settings."""
    if codecs is None:
        return set()
    if isinstance(codecs, list | tuple):
        return set().union(*map(_names, codecs))
    settings = codecs.get_config() if hasattr(codecs, "get_config") else codecs.to_dict()
    inner = settings.get("configuration", {}) if isinstance(settings.get("configuration", {}), dict) else {}
    below = set().union(*(_names_of_settings(inner.get(key, ())) for key in ("codecs", "index_codecs")))
    return {str(settings.get("id", settings.get("name"))).removeprefix("numcodecs."), *below}


def _names_of_settings(settings: Any) -> set[str]:
    return {str(each["name"]).removeprefix("numcodecs.") for each in settings}


ZARR = CellFormat("zarr store", (".zarr", ".zarr/", ".zarr.zip"), read_zarr)
