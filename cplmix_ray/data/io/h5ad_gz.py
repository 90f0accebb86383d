"""Compressed `.h5ad.gz` files, unpacked into a temporary file."""

import gzip
import shutil
import tempfile
from pathlib import Path

from cplmix_ray.data.io.cell_format import CellFormat, ReadOptions
from cplmix_ray.data.io.cells_in_memory import format_errors, source_in_memory
from cplmix_ray.data.io.h5ad import read_h5ad
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.regular_file import require_file
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

_PIECE = 16 << 20


def read_h5ad_gz(data: str, options: ReadOptions) -> Source:
    """All cells; the temporary file is removed again."""
    require_file(data, "--data")
    with tempfile.TemporaryDirectory(prefix="cplmix-") as folder:
        unpacked = Path(folder) / "cells.h5ad"
        with format_errors(data, "a gzip file of an .h5ad"):
            _unpack(data, unpacked, min(free_memory(), shutil.disk_usage(folder).free // 2))
        try:
            adata, notes = read_h5ad(unpacked)
        except InputError as error:
            raise InputError(str(error).replace(str(unpacked), data)) from None
    return source_in_memory(adata, data, options, tuple(note.replace(str(unpacked), data) for note in notes))


def _unpack(data: str, unpacked: Path, most: int) -> None:
    """Decompress a gzip file up to a maximum number of bytes.

    Raises:
        InputError: there are more of them.
    """
    done = 0
    with gzip.open(data, "rb") as packed, open(unpacked, "wb") as file:
        while piece := packed.read(_PIECE):
            done += len(piece)
            if done > most:
                raise InputError(
                    f"{data} unpacks to more than {most / 2**30:,.1f} GB, which is more than the free memory or the "
                    f"temporary folder allow; unpack it with gunzip, and leave it on disk with --backed yes."
                )
            file.write(piece)


H5AD_GZ = CellFormat("compressed .h5ad", (".h5ad.gz",), read_h5ad_gz)
