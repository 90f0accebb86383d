"""The parts of an `.h5ad` file, read one by one: an entry that cannot be read is left out, and a note says which.

Training needs the names of cells and genes and one matrix; a damaged or unknown entry elsewhere must not stop it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anndata
import h5py
import pandas as pd
from anndata.io import read_elem

from cplmix_ray.data.validation.hdf5_errors import reason_of
from cplmix_ray.data.validation.hdf5_safety import sparse_format
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrix
from cplmix_ray.utils.errors import in_one_line

ALL = ("obs", "var", "X", "layers", "raw", "obsm", "varm", "obsp", "varp", "uns")


def read_parts(file: h5py.File, path: str, wanted: Iterable[str] = ALL) -> tuple[anndata.AnnData, tuple[str, ...]]:
    """Read obs, var and the other wanted parts of a file of anndata 0.7 or later.

    Returns:
        The object, and a note for each entry that was left out.

    Raises:
        Exception: of anndata; the names of the cells or genes cannot be read.
    """
    reader = _Reader(path)
    adata = anndata.AnnData(None, obs=reader.frame(file, "obs"), var=reader.frame(file, "var"))
    for part in (name for name in wanted if name in file and name not in ("obs", "var")):
        if part == "X":
            with reader.entry(part):
                _set_matrix(adata, reader.read(file, part))
        elif part == "raw":
            with reader.entry(part):
                raw = reader.read(file, part)
                raw = raw if isinstance(raw, anndata.AnnData) else anndata.AnnData(**raw)
                for key, values in {"X": raw.X, **raw.varm}.items():
                    check_sparse_matrix(values, f"raw/{key}", path)
                adata.raw = raw
        elif part == "uns":
            adata.uns = reader.mapping(file[part])
        else:
            for key in file[part]:
                with reader.entry(f"{part}/{key}"):
                    getattr(adata, part)[key] = reader.read(file, f"{part}/{key}")
    unknown = [name for name in file if name not in ALL]
    if unknown:
        left_out = f"{', '.join(unknown)} of {path} is no part of an AnnData object and is left out."
        reader.notes.append(in_one_line(left_out))
    return adata, tuple(reader.notes)


def read_frame(file: h5py.File, path: str, key: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """A frame such as raw/var, without the columns that cannot be read, and a note for each of those."""
    reader = _Reader(path)
    return reader.frame(file, key), tuple(reader.notes)


def is_old(file: h5py.File) -> bool:
    """Whether anndata before 0.7 wrote the file: obs and var are arrays, which only anndata's own reader takes."""
    return not isinstance(file["obs"], h5py.Group)


class _Reader:
    """Reads entries, and keeps a note for each that cannot be read."""

    def __init__(self, path: str):
        self.path = path
        self.notes: list[str] = []

    @contextmanager
    def entry(self, key: str) -> Iterator[None]:
        """Leave out an entry if reading it fails."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            self.notes.append(in_one_line(f"{key} of {self.path} cannot be read and is left out: {reason_of(error)}."))

    def read(self, file: h5py.Group, key: str) -> Any:
        value = read_elem(file[key])
        check_sparse_matrix(value, key, self.path)
        return value

    def frame(self, file: h5py.File, axis: str) -> pd.DataFrame:
        """obs or var without the columns that cannot be read."""
        group = file[axis]
        try:
            return read_elem(group)
        except MemoryError:
            raise
        except Exception:
            if group.attrs.get("encoding-version") != "0.2.0":  # before, a column is in several places
                raise
        names = group.attrs["_index"]
        frame = pd.DataFrame(index=read_elem(group[names]))
        frame.index.name = None if names == "_index" else names
        for column in dict.fromkeys(group.attrs["column-order"]):
            with self.entry(f"{axis}/{column}"):
                frame[column] = read_elem(group[column])
        return frame

    def mapping(self, group: h5py.Group) -> dict[str, Any]:
        """Read a group of an .h5ad file as a nested dict, leaving out entries that cannot be read."""
        found = {}
        for key, node in group.items():
            with self.entry(node.name.strip("/")):
                plain = isinstance(node, h5py.Group) and node.attrs.get("encoding-type", "dict") == "dict"
                if plain and not sparse_format(node):
                    found[key] = self.mapping(node)
                else:
                    found[key] = self.read(group, key)
        return found


def _set_matrix(adata: anndata.AnnData, values: Any) -> None:
    if values.shape != adata.shape:
        raise ValueError(f"its shape is {values.shape}, and obs and var say {adata.shape}")
    adata.X = values
