"""Rows of a matrix in an `.h5ad` file.

HDF5 is read here and not through anndata's backed matrices: those take 20 to 35 times as long for runs of some tens of
cells.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import scipy.sparse as sp

from cplmix_ray.data.matrix.block import Block, native_numbers
from cplmix_ray.data.validation.hdf5_errors import hdf5_errors, unreadable
from cplmix_ray.data.validation.hdf5_safety import sparse_format
from cplmix_ray.utils.errors import InputError

_BRIDGED = 16
"""Unwanted rows up to which two wanted ones are read in one go: a call costs as much as that many cells."""
_SPAN = 4096
"""Rows that one call reads at most, so that what is read and not wanted stays small."""


@dataclass(frozen=True)
class HDF5Layout:
    """Where and how a matrix is stored.

    Attributes:
        key: group or array within the file, such as X or layers/counts.
        shape: (cells, genes).
        dtype: of the values.
        sparse: CSR, or else dense.
        n_bytes: of the whole matrix in memory, as it is stored.
    """

    path: str
    key: str
    shape: tuple[int, int]
    dtype: np.dtype
    sparse: bool
    n_bytes: int


def hdf5_layout(file: h5py.File, path: str, key: str) -> HDF5Layout:
    """Where and how a matrix is stored, without reading it.

    Raises:
        InputError: it is stored by genes, or in no layout that is known.
    """
    node = file[key]
    if isinstance(node, h5py.Dataset):
        if node.ndim != 2:
            raise InputError(f"{key} of {path} is no matrix: its shape is {node.shape}.")
        n, g = node.shape
        return HDF5Layout(path, key, (n, g), node.dtype, False, n * g * node.dtype.itemsize)
    kind = sparse_format(node)
    if kind == "csc":
        name = _in_python(key)
        remedy = "" if key.startswith("raw") else f"save it with adata.{name} = adata.{name}.tocsr(), or "
        raise InputError(
            f"{key} of {path} is stored by genes (CSC), so that cells cannot be read one by one; {remedy}read it whole "
            f"with --backed no."
        )
    if kind != "csr":
        other = node.attrs.get("encoding-type", "a group")
        raise InputError(f"{key} of {path} is neither dense nor CSR but '{other}'; read it whole with --backed no.")
    n, g = (int(size) for size in node.attrs.get("shape", node.attrs.get("h5sparse_shape")))
    n_stored = len(node["data"]) * (node["data"].dtype.itemsize + node["indices"].dtype.itemsize)
    return HDF5Layout(path, key, (n, g), node["data"].dtype, True, n_stored)


def _in_python(key: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"{folder}['{name}']" if folder else name


class HDF5Matrix:
    """A matrix whose file is open.

    Raises:
        InputError: the file is not there any more, or broken.
    """

    def __init__(self, layout: HDF5Layout):
        self.layout = layout
        if not Path(layout.path).exists():
            raise InputError(
                f"There is no file {layout.path} here; with --backed, every machine that has arms reads the cells from "
                f"the same path: put the file where all see it, or use --backed no."
            )
        with hdf5_errors(layout.path):
            self._file = h5py.File(layout.path, "r")
        try:
            node = self._file[layout.key]
            if layout.sparse:
                self._data, self._indices = node["data"], node["indices"]
                self._starts_n = node["indptr"][:].astype(np.int64, copy=False)
                if len(self._starts_n) != layout.shape[0] + 1 or (np.diff(self._starts_n) < 0).any():
                    raise ValueError(f"{layout.key}/indptr does not fit {layout.shape[0]} cells")
                if self._starts_n[0] != 0 or self._starts_n[-1] > min(len(self._data), len(self._indices)):
                    raise ValueError(f"{layout.key}/data is shorter than {layout.key}/indptr says")
            else:
                self._data = node
        except Exception as error:
            self._file.close()
            raise unreadable(layout.path, error) from None

    def __enter__(self) -> "HDF5Matrix":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self, sorted_n: np.ndarray) -> Block:
        """Rows of the file, given in ascending order and each once.

        Raises:
            InputError: the file is damaged there.
        """
        with hdf5_errors(self.layout.path):
            return native_numbers(self._sparse(sorted_n) if self.layout.sparse else self._dense(sorted_n))

    def _dense(self, sorted_n: np.ndarray) -> np.ndarray:
        out_ng = np.empty((len(sorted_n), self.layout.shape[1]), self.layout.dtype)
        for at, part_n in _spans(sorted_n):
            block_ng = self._data[part_n[0] : part_n[-1] + 1]
            out_ng[at : at + len(part_n)] = block_ng[part_n - part_n[0]] if len(block_ng) > len(part_n) else block_ng
        return out_ng

    def _sparse(self, sorted_n: np.ndarray) -> sp.csr_matrix:
        starts_n = self._starts_n
        ends_n = np.concatenate([[0], np.cumsum(starts_n[sorted_n + 1] - starts_n[sorted_n])])
        data = np.empty(ends_n[-1], self._data.dtype)
        indices = np.empty(ends_n[-1], self._indices.dtype)
        for at, part_n in _spans(sorted_n):
            first, last = int(part_n[0]), int(part_n[-1]) + 1
            stored, to = slice(starts_n[first], starts_n[last]), slice(ends_n[at], ends_n[at + len(part_n)])
            values, genes = self._data[stored], self._indices[stored]
            if last - first > len(part_n):
                wanted = np.zeros(last - first, bool)
                wanted[part_n - first] = True
                wanted = np.repeat(wanted, np.diff(starts_n[first : last + 1]))
                values, genes = values[wanted], genes[wanted]
            data[to], indices[to] = values, genes
        return sp.csr_matrix((data, indices, ends_n), shape=(len(sorted_n), self.layout.shape[1]))


def _spans(sorted_n: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Rows that are read together, each with its place among all."""
    if not len(sorted_n):
        return []
    cuts = np.flatnonzero(np.diff(sorted_n) > _BRIDGED) + 1
    found, at = [], 0
    for part_n in np.split(sorted_n, cuts):
        span = np.searchsorted(part_n, np.arange(part_n[0], part_n[-1] + 1, _SPAN)[1:])
        for piece_n in np.split(part_n, span):
            if len(piece_n):
                found.append((at, piece_n))
                at += len(piece_n)
    return found
