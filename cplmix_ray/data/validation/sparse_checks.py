"""Checks of sparse matrices: indices that are out of bounds make SciPy read beyond its arrays."""

from typing import Any

import anndata
import scipy.sparse as sp

from cplmix_ray.utils.errors import InputError


def check_sparse_matrices(adata: anndata.AnnData, name: str) -> None:
    """Check every sparse matrix of an object.

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
            check_sparse_matrix(matrix, key, name)


def _named(folder: str, mapping: Any) -> dict[str, Any]:
    """All entries of a mapping, at any depth, by their paths."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        found |= _named(f"{folder}/{key}", value) if isinstance(value, dict) else {f"{folder}/{key}": value}
    return found


def check_sparse_matrix(matrix: Any, key: str, name: str) -> None:
    """Refuse a CSR or CSC matrix whose parts do not fit together.

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
