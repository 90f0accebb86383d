"""What an HDF5 file would have its reader do: looked at before anything of it is read.

A file can name other files, which are then opened in its stead, or a filter, which HDF5 then looks for as a library to
load; it can hold itself in itself; and it can declare any size, whatever it holds.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import prod
from typing import Any, TypeAlias

import h5py
from h5py import h5d, h5l, h5o, h5z

from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

_DEEPEST, _MOST = 64, 200_000
"""Levels of groups, and objects in them; AnnData has few of either."""
_FILTERS = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_SZIP, h5z.FILTER_NBIT}
_FILTERS |= {h5z.FILTER_SCALEOFFSET, h5z.FILTER_LZF}
"""Those that are part of HDF5 and h5py."""
_OBJECT_BYTES = 64
"""What a string takes in memory at least, as an object of Python."""
_SPARED, _DENSEST = 256 << 20, 4000
"""Bytes that are not asked for their origin, and how many a stored byte can stand for: deflate makes 1,032 of one."""
_CHUNKS = 1_000_000
"""Chunks that are looked up without asking how many of them were ever written."""

Node: TypeAlias = Any
"""A group or a data set."""


def require_enclosed(file: h5py.File, path: str, parts: Iterable[str] | None = None, key: str | None = None) -> None:
    """Refuse a file that reaches beyond itself, or declares more than it holds or the memory does.

    Args:
        parts: names of what will be read whole; None for everything.
        key: a matrix of which rows will be read; it may be larger than the memory.

    Raises:
        InputError: naming the part in question.
    """
    free = free_memory()
    whole = sum(_bytes_of(node, name, path) for name, node in _walk(file, path, parts))
    at_once = 0
    for name, node in _walk(file, path, () if key is None else (key,)):
        _checked(node, name, path)
        at_once = max(at_once, _block_bytes(node))
    for n_bytes in (whole, at_once):
        if n_bytes > free:
            raise InputError(
                f"{path} takes {n_bytes / 2**30:,.1f} GB when it is read, and {free / 2**30:,.1f} GB of memory are "
                f"free; leave the matrix on disk with --backed yes, or take out what is not needed."
            )


def readable(file: h5py.File, path: str) -> Iterator[tuple[Node, bool]]:
    """Every object in the file, once, whatever is wrong with others; and whether nothing is wrong with it."""
    waiting: list[Node] = [file]
    seen = {h5o.get_info(file.id).addr}
    while waiting:
        node = waiting.pop()
        sound = False
        with suppress(Exception):
            _checked(node, "", path)
            sound = True
        yield node, sound
        with suppress(Exception):
            for name in node if isinstance(node, h5py.Group) else ():
                with suppress(Exception):
                    below = _step(node, name, path)
                    address = h5o.get_info(below.id).addr
                    waiting += [] if address in seen else [below]
                    seen.add(address)


def member(file: h5py.File, path: str, name: str) -> Node | None:
    """A part of the file by its name, None where there is none.

    Raises:
        InputError: it is not in the file itself.
    """
    at: Node = file
    for step in name.split("/"):
        if not isinstance(at, h5py.Group) or not at.id.links.exists(step.encode()):
            return None
        at = _step(at, step, path)
    return at


def _step(group: h5py.Group, name: str, path: str) -> Node:
    kind = group.id.links.get_info(_encoded(name)).type
    if kind != h5l.TYPE_HARD:
        raise _refused(path, f"{group.name}/{name}", "is a link to something else, perhaps in another file")
    return group[name]


def _walk(file: h5py.File, path: str, parts: Iterable[str] | None) -> Iterator[tuple[str, Node]]:
    """Everything that reading meets, as often as it does."""
    # Each with the groups that it is in.
    waiting: list[tuple[Node, tuple[int, ...]]] = [(file, ())]
    if parts is not None:
        found = [member(file, path, name) for name in parts]
        waiting = [(node, ()) for node in found if node is not None]
    seen = 0
    while waiting:
        node, within = waiting.pop()
        name = node.name or "an object without a name"
        yield name, node
        if not isinstance(node, h5py.Group):
            continue
        here = h5o.get_info(node.id).addr
        if here in within:
            raise _refused(path, name, "contains itself")
        if len(within) > _DEEPEST:
            raise _refused(path, name[:40], f"lies more than {_DEEPEST} groups deep")
        seen += len(node)
        if seen > _MOST:
            raise InputError(f"{path} holds more than {_MOST:,} objects; it is no .h5ad that can be read.")
        waiting += [(_step(node, below, path), (*within, here)) for below in node]


def _bytes_of(node: Node, name: str, path: str) -> int:
    """What a part takes in memory, groups without what is in them."""
    n_bytes = _checked(node, name, path)
    legacy = node.attrs.get("categories") if "categories" in node.attrs else None
    if isinstance(legacy, h5py.Reference):  # as AnnData wrote categories before 0.7
        n_bytes += _checked(node.file[legacy], name, path)
    return n_bytes


def _checked(node: Node, name: str, path: str) -> int:
    if isinstance(node, h5py.Group):
        _require_fit(node, name, path)
        return 0
    if not isinstance(node, h5py.Dataset):  # a named type, of which nothing is read
        return 0
    made = node.id.get_create_plist()
    if made.get_layout() == h5d.VIRTUAL or made.get_external_count():
        raise _refused(path, name, "has its values in another file")
    filters = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
    if filters - _FILTERS:
        raise _refused(path, name, f"needs a plug-in of HDF5 to be read (filter {min(filters - _FILTERS)})")
    if h5py.check_ref_dtype(node.dtype) is not None:
        raise _refused(path, name, "holds references in place of values")
    n_bytes, stored = max(_declared(node), _block_bytes(node)), node.id.get_storage_size()
    chunks = 0 if node.chunks is None else prod(-(-n // c) for n, c in zip(node.shape, node.chunks, strict=True))
    unwritten = chunks > _CHUNKS and chunks > _DENSEST * node.id.get_num_chunks()
    if unwritten or (n_bytes > _SPARED and n_bytes > _DENSEST * stored):
        raise _refused(path, name, f"declares {n_bytes / 2**30:,.1f} GB, and {stored:,} bytes of it are there")
    return n_bytes


def _declared(node: h5py.Dataset) -> int:
    each = node.dtype.itemsize if node.dtype.kind != "O" else _OBJECT_BYTES
    return (node.size or 0) * each


def _block_bytes(node: Node) -> int:
    """What reading any of its values takes: a chunk is made whole."""
    if not isinstance(node, h5py.Dataset) or node.chunks is None:
        return 0
    return prod(node.chunks) * node.id.get_type().get_size()


def _require_fit(group: h5py.Group, name: str, path: str) -> None:
    """Refuse a sparse matrix whose parts do not fit together; its values are looked at when they are read."""
    kind = str(group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", "")))
    if not kind.startswith(("csr", "csc")):
        return
    shape = group.attrs.get("shape", group.attrs.get("h5sparse_shape"))
    parts = [group.get(part) for part in ("data", "indices", "indptr")]
    if any(not isinstance(part, h5py.Dataset) or part.ndim != 1 for part in parts):
        raise _refused(path, name, "is a sparse matrix without data, indices and indptr")
    data, indices, indptr = parts
    if shape is None or len(shape) != 2 or any(int(n) != n or n < 0 for n in shape):
        raise _refused(path, name, f"is a sparse matrix of shape {shape}")
    if len(indptr) != int(shape[1 if kind.startswith("csc") else 0]) + 1 or len(data) != len(indices):
        raise _refused(path, name, f"is a sparse matrix of shape {tuple(map(int, shape))} that its parts do not fit")
    if indices.dtype.kind not in "iu" or indptr.dtype.kind not in "iu":
        raise _refused(path, name, "is a sparse matrix whose indices are no whole numbers")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _refused(path: str, name: str, what: str) -> InputError:
    return InputError(f"{name} of {path} {what}; write the file again with adata.write_h5ad.")
