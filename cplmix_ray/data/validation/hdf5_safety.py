"""Checks of an HDF5 file before anything of it is read.

A file can name other files that HDF5 then opens, or a filter for which it looks for a library to load; a group can
contain itself; and a data set can declare any size, whatever is stored of it.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import prod
from typing import Any, TypeAlias

import h5py
from h5py import h5d, h5l, h5o, h5z

from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

_MAX_DEPTH, _MAX_OBJECTS = 64, 200_000
"""Levels of groups, and objects in them; AnnData has few of either."""
_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_SZIP, h5z.FILTER_NBIT}
_FILTERS |= {h5z.FILTER_SCALEOFFSET, h5z.FILTER_LZF}
"""Filters that are part of HDF5 and h5py."""
_OBJECT_BYTES = 64
"""Bytes that a string takes in memory at least, as an object of Python."""
_SMALL, _MAX_RATIO = 256 << 20, 4000
"""Bytes up to which a data set may be compressed at any ratio, and the largest ratio beyond; deflate reaches 1,032."""
_MAX_CHUNKS = 1_000_000
"""Number of chunks up to which it is not asked how many of them were written."""

Node: TypeAlias = Any
"""A group or a data set."""


def require_safe(file: h5py.File, path: str, parts: Iterable[str] | None = None, key: str | None = None) -> None:
    """Refuse a file that refers to other files, or declares more than it stores or than fits into memory.

    Args:
        parts: names of what will be read whole; None for everything.
        key: a matrix of which rows will be read; it may be larger than the memory.

    Raises:
        InputError: naming the part in question.
    """
    free = free_memory()
    whole = sum(_memory_bytes(node, name, path) for name, node in _walk(file, path, parts))
    at_once = 0
    for name, node in _walk(file, path, () if key is None else (key,)):
        _check(node, name, path)
        at_once = max(at_once, _chunk_bytes(node))
    for n_bytes in (whole, at_once):
        if n_bytes > free:
            raise InputError(
                f"{path} takes {n_bytes / 2**30:,.1f} GB when it is read, and {free / 2**30:,.1f} GB of memory are "
                f"free; leave the matrix on disk with --backed yes, or take out what is not needed."
            )


def list_objects(file: h5py.File, path: str) -> Iterator[tuple[Node, bool]]:
    """Every object in the file, once, and whether its checks pass; objects that cannot be opened are left out."""
    stack: list[Node] = [file]
    seen = {h5o.get_info(file.id).addr}
    while stack:
        node = stack.pop()
        safe = False
        with suppress(Exception):
            _check(node, "", path)
            safe = True
        yield node, safe
        with suppress(Exception):
            for name in node if isinstance(node, h5py.Group) else ():
                with suppress(Exception):
                    child = _child(node, name, path)
                    address = h5o.get_info(child.id).addr
                    stack += [] if address in seen else [child]
                    seen.add(address)


def find_object(file: h5py.File, path: str, name: str) -> Node | None:
    """A part of the file by its name, None where there is none.

    Raises:
        InputError: it is not in the file itself.
    """
    node: Node = file
    for step in name.split("/"):
        if not isinstance(node, h5py.Group) or not node.id.links.exists(step.encode()):
            return None
        node = _child(node, step, path)
    return node


def _child(group: h5py.Group, name: str, path: str) -> Node:
    if group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != h5l.TYPE_HARD:
        raise _refusal(path, f"{group.name}/{name}", "is a link to something else, perhaps in another file")
    return group[name]


def _walk(file: h5py.File, path: str, parts: Iterable[str] | None) -> Iterator[tuple[str, Node]]:
    """Everything that is read, as often as it is read."""
    # Each with the addresses of the groups that it is in.
    stack: list[tuple[Node, tuple[int, ...]]] = [(file, ())]
    if parts is not None:
        found = [find_object(file, path, name) for name in parts]
        stack = [(node, ()) for node in found if node is not None]
    n_objects = 0
    while stack:
        node, parents = stack.pop()
        name = node.name or "an object without a name"
        yield name, node
        if not isinstance(node, h5py.Group):
            continue
        address = h5o.get_info(node.id).addr
        if address in parents:
            raise _refusal(path, name, "contains itself")
        if len(parents) > _MAX_DEPTH:
            raise _refusal(path, name[:40], f"lies more than {_MAX_DEPTH} groups deep")
        n_objects += len(node)
        if n_objects > _MAX_OBJECTS:
            raise InputError(f"{path} holds more than {_MAX_OBJECTS:,} objects; it is no .h5ad that can be read.")
        stack += [(_child(node, below, path), (*parents, address)) for below in node]


def _memory_bytes(node: Node, name: str, path: str) -> int:
    """Bytes in memory of what is read, groups without what is in them."""
    n_bytes = _check(node, name, path)
    legacy = node.attrs.get("categories") if "categories" in node.attrs else None
    if isinstance(legacy, h5py.Reference):  # as AnnData wrote categories before 0.7
        n_bytes += _check(node.file[legacy], name, path)
    return n_bytes


def _check(node: Node, name: str, path: str) -> int:
    """Bytes that a data set takes in memory, 0 for other objects.

    Raises:
        InputError: it must not be read.
    """
    if isinstance(node, h5py.Group):
        _check_sparse(node, name, path)
    if not isinstance(node, h5py.Dataset):
        return 0
    properties = node.id.get_create_plist()
    if properties.get_layout() == h5d.VIRTUAL or properties.get_external_count():
        raise _refusal(path, name, "has its values in another file")
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if filters - _FILTERS:
        raise _refusal(path, name, f"needs a plug-in of HDF5 to be read (filter {min(filters - _FILTERS)})")
    if h5py.check_ref_dtype(node.dtype) is not None:
        raise _refusal(path, name, "holds references in place of values")
    value_bytes = node.dtype.itemsize if node.dtype.kind != "O" else _OBJECT_BYTES
    n_bytes, stored = max((node.size or 0) * value_bytes, _chunk_bytes(node)), node.id.get_storage_size()
    n_chunks = 0 if node.chunks is None else prod(-(-n // c) for n, c in zip(node.shape, node.chunks, strict=True))
    unwritten = n_chunks > _MAX_CHUNKS and n_chunks > _MAX_RATIO * node.id.get_num_chunks()
    if unwritten or (n_bytes > _SMALL and n_bytes > _MAX_RATIO * stored):
        raise _refusal(path, name, f"declares {n_bytes / 2**30:,.1f} GB, and {stored:,} bytes of it are there")
    return n_bytes


def _chunk_bytes(node: Node) -> int:
    """Bytes that reading any of its values takes: a chunk is unpacked whole."""
    if not isinstance(node, h5py.Dataset) or node.chunks is None:
        return 0
    return prod(node.chunks) * node.id.get_type().get_size()


def sparse_format(group: h5py.Group) -> str:
    """'csr' or 'csc' of a group that holds such a matrix, or else ''."""
    kind = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    text = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    return text[:3] if text.startswith(("csr", "csc")) else ""


def _check_sparse(group: h5py.Group, name: str, path: str) -> None:
    """Refuse a sparse matrix whose parts do not fit together; their values are checked when they are read."""
    kind = sparse_format(group)
    if not kind:
        return
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    parts: list[Any] = [find_object(group, path, part) for part in ("data", "indices", "indptr")]
    if any(not isinstance(part, h5py.Dataset) or part.ndim != 1 for part in parts):
        raise _refusal(path, name, "is a sparse matrix without data, indices and indptr")
    data, indices, indptr = parts
    if shape is None or len(shape) != 2 or any(int(n) != n or n < 0 for n in shape):
        raise _refusal(path, name, f"is a sparse matrix of shape {shape}")
    if len(indptr) != int(shape[1 if kind == "csc" else 0]) + 1 or len(data) != len(indices):
        raise _refusal(path, name, f"is a sparse matrix of shape {tuple(map(int, shape))} that its parts do not fit")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise _refusal(path, name, "is a sparse matrix whose indices are no whole numbers")


def _refusal(path: str, name: str, what: str) -> InputError:
    return InputError(f"{name} of {path} {what}; write the file again with adata.write_h5ad.")
