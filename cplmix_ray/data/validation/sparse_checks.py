"""Whether what was read of a file is what it says: matrices whose indices lead nowhere make SciPy read beyond them."""

from typing import Any

import anndata
import h5py
import scipy.sparse as sp
from anndata.io import write_elem

from cplmix_ray.utils.errors import InputError


def require_sound(adata: anndata.AnnData, name: str) -> None:
    """Look at every sparse matrix of an object.

    Raises:
        InputError: one is damaged.
    """
    raw = {} if adata.raw is None else {"raw/X": adata.raw.X, **_named("raw/varm", adata.raw.varm)}
    folders = ("layers", "obsm", "varm", "obsp", "varp", "uns")
    held = {"X": adata.X, **raw}
    for folder in folders:
        held |= _named(folder, getattr(adata, folder))
    for key, matrix in held.items():
        if sp.issparse(matrix):
            require_sound_matrix(matrix, key, name)


def _named(folder: str, mapping: Any) -> dict[str, Any]:
    """What lies in a folder, at any depth, by its path."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        found |= _named(f"{folder}/{key}", value) if isinstance(value, dict) else {f"{folder}/{key}": value}
    return found


def require_sound_matrix(matrix: Any, key: str, name: str) -> None:
    """Refuse a CSR or CSC matrix whose parts do not fit.

    Raises:
        InputError: naming it.
    """
    if getattr(matrix, "format", None) not in ("csr", "csc"):
        return
    minor = matrix.shape[1] if matrix.format == "csr" else matrix.shape[0]
    starts, indices = matrix.indptr, matrix.indices
    fits = (
        len(starts) == sum(matrix.shape) - minor + 1
        and starts[0] == 0
        and bool((starts[1:] >= starts[:-1]).all())
        and starts[-1] <= min(len(matrix.data), len(indices))
    )
    if not fits:
        raise InputError(f"{name} is damaged: {key}/indptr does not fit its values.")
    if starts[-1] and not 0 <= indices[: starts[-1]].min() <= indices[: starts[-1]].max() < minor:
        raise InputError(f"{name} is damaged: {key}/indices names rows or columns beyond its {minor}.")


def require_writable_again(adata: anndata.AnnData, name: str) -> None:
    """Refuse an object of which something can be read and not be written: better now than after the training.

    Raises:
        InputError: naming it.
    """
    try:
        with h5py.File("trial", "w", driver="core", backing_store=False) as file:
            write_elem(file, "cells", adata[:1, :1].copy())
    except Exception as error:  # many kinds, for all that an object can hold
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{name} holds something that cannot be written to an .h5ad again ({reason}); take it out."
        ) from None
