"""Paths to which commands write, checked before they start."""

import time
from pathlib import Path

from cplmix_ray.utils.errors import InputError

_AS_H5AD = (".h5ad", ".h5", ".hdf5")
"""Names by which an AnnData file is recognised when it is read."""


def output_folder(out: str | None, resume: bool, data: str, prefix: str = "") -> Path:
    """The folder given with --out, or a new one named for the data and the time.

    Raises:
        InputError: a run is to be resumed and its folder is not given.
    """
    if resume and out is None:
        raise InputError("--resume requires the folder of the run; give it with --out.")
    return Path(out) if out else Path("runs") / f"{prefix}{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def output_h5ad(out: str) -> Path:
    """The AnnData file given with --out.

    Raises:
        InputError: it would not be recognised as an AnnData file by its name.
    """
    if not out.lower().endswith(_AS_H5AD):
        raise InputError(f"--out {out} is to be an AnnData file; give a name that ends in .h5ad.")
    return Path(out)
