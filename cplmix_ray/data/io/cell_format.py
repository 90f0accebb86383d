"""The registry of input formats: which reader takes what the user gives as ``--data``.

A format is added by one file that defines a reader and registers it::

    register_cell_format(CellFormat("loom", (".loom",), read_loom))
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from cplmix_ray.data.io.conversions import conversion_of
from cplmix_ray.data.io.h5ad_backed import Backed
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.regular_file import require_file
from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reader; a reader refuses those that mean nothing for its format.

    Attributes:
        layer: layer to read in place of X.
        labels_key, state_key: columns of obs with known types, and with known continuous states.
        metadata: CSV file with more columns of obs.
        backed: whether the matrix stays in its file.
        subset, seed: number of cells that are drawn; a reader may draw them itself, before it makes the others.
    """

    layer: str | None = None
    labels_key: str | None = None
    metadata: str | None = None
    state_key: tuple[str, ...] = ()
    backed: Backed = "no"
    subset: int | None = None
    seed: int = 0

    def refuse_for_images(self, name: str) -> None:
        """Refuse the options that mean nothing for images.

        Raises:
            InputError: one is given.
        """
        if self.layer is not None:
            raise InputError(f"{name} holds images, which have no layer '{self.layer}'; leave out --layer.")
        if self.metadata is not None or self.state_key:
            option = "--state-key" if self.metadata is None else "--metadata"
            raise InputError(f"{name} holds images, for which {option} means nothing; leave it out.")


@dataclass(frozen=True)
class CellFormat:
    """A format of cells or images.

    Attributes:
        name: for messages; of a data set without a file, what the user gives as ``--data``.
        suffixes: endings of the names of its files; none for a data set without a file.
        read: reads what the user gives.
        accepts: tells whether data is of this format, where the suffixes are those of other formats too.
        several: whether several files may be given, with commas between them.
        preset: name of the preset that suits what the user gives, used where no settings are given.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[str, ReadOptions], Source]
    accepts: Callable[[str], bool] | None = None
    several: bool = False
    preset: Callable[[str], str] = lambda data: "cells"

    def takes(self, data: str) -> bool:
        """Whether ``data`` is of this format."""
        if self.accepts is not None:
            return self.accepts(data)
        if not self.suffixes:
            return data == self.name
        return all(part.endswith(self.suffixes) for part in (data.split(",") if self.several else [data]))


_FORMATS: dict[str, CellFormat] = {}


def register_cell_format(cell_format: CellFormat) -> None:
    """Add a format, or replace the one of the same name."""
    _FORMATS[cell_format.name] = cell_format


def find_cell_format(data: str) -> CellFormat:
    """The format of what the user gives.

    Raises:
        InputError: there is none for it, or no such file.
    """
    for cell_format in _FORMATS.values():
        if cell_format.takes(data):
            return cell_format
    if not os.path.exists(data):
        require_file(data, "--data")  # which says so
    conversion = conversion_of(data)
    if conversion is not None:
        raise InputError(f"--data {data} is of a format that is not read; {conversion}.")
    files = [f"{' '.join(one.suffixes)} ({one.name})" for one in _FORMATS.values() if one.suffixes]
    names = [f"'{one.name}'" for one in _FORMATS.values() if not one.suffixes]
    raise InputError(
        f"--data {data} is of no known format; give a file whose name ends in {', '.join(files)}, or one of the "
        f"built-in data sets {', '.join(names)}."
    )
