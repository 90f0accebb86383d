"""Cells from `.h5ad` files and AnnData objects."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.data.io.h5ad_backed import open_h5ad
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.block import native_numbers
from cplmix_ray.data.matrix.hdf5_matrix import hdf5_errors, ignore_warnings
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.hdf5_safety import require_safe
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrices, check_sparse_matrix
from cplmix_ray.data.validation.subprocess_probe import open_probed
from cplmix_ray.utils.errors import InputError


def read_h5ad(path: str | Path) -> anndata.AnnData:
    """Read a whole `.h5ad`; sparse matrices stay sparse.

    Raises:
        InputError: the file cannot be read.
    """
    with hdf5_errors(path), ignore_warnings():
        with open_probed(path) as file:
            require_safe(file, str(path))
        adata = anndata.read_h5ad(path)
    check_sparse_matrices(adata, str(path))
    return adata


def source_from_anndata(
    adata: anndata.AnnData,
    layer: str | None = None,
    labels_key: str | None = None,
    name: str = "the AnnData object",
    state_key: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Source:
    """Choose the matrix, the labels and the known states of an AnnData object, and check all.

    The matrix of a backed object stays in its file.
    """
    if adata.isbacked and adata.filename is not None and not adata.is_view:
        return with_values(*open_h5ad(str(adata.filename), layer), labels_key, name, state_key, notes)
    if layer is not None and layer not in adata.layers:
        raise InputError(f"{name} has no layer '{layer}'; it has {_listed(adata.layers)}.")
    values = adata.X if layer is None else adata.layers[layer]
    if sp.issparse(values):
        check_sparse_matrix(values, "X" if layer is None else f"layers['{layer}']", name)
    values = sp.csr_matrix(values) if sp.issparse(values) else None if values is None else np.asarray(values)
    if values is not None and values.dtype.kind in "uifb":
        values = native_numbers(values)
    return with_values(adata, None if values is None else InMemoryMatrix(values), labels_key, name, state_key, notes)


def with_values(
    adata: anndata.AnnData,
    matrix: Matrix | None,
    labels_key: str | None,
    name: str,
    state_key: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Source:
    """Cells whose matrix was chosen, with their labels and known states, all checked."""
    if matrix is None:
        raise InputError(f"{name} has no X; name the layer that holds the expression with --layer.")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise InputError(f"{name} is empty: {adata.n_obs} cells x {adata.n_vars} genes.")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()][0]
        raise InputError(f"{name} names gene '{twice}' more than once; call adata.var_names_make_unique() and save.")
    if matrix.dtype.kind not in "uifb":
        raise InputError(f"The expression matrix of {name} holds {matrix.dtype}, not numbers.")
    labels_n, truth_nm = _labels(adata, labels_key, name), _states(adata, state_key, name)
    return Source(adata, matrix, name, labels_n=labels_n, truth_nm=truth_nm, notes=notes)


def _labels(adata: anndata.AnnData, key: str | None, name: str) -> np.ndarray | None:
    if key is None:
        return None
    if key not in adata.obs:
        raise InputError(f"{name} has no column '{key}' in obs for --labels-key; it has {_listed(adata.obs)}.")
    column = pd.Series(adata.obs[key])
    return np.where(column.isna(), "", column.astype(str)).astype(str)


def _states(adata: anndata.AnnData, keys: tuple[str, ...], name: str) -> np.ndarray | None:
    if not keys:
        return None
    columns = []
    for key in keys:
        if key not in adata.obs:
            raise InputError(f"{name} has no column '{key}' in obs for --state-key; it has {_listed(adata.obs)}.")
        column = adata.obs[key]
        plain = column.astype(object).where(column.notna(), np.nan)
        numbers = pd.to_numeric(plain, errors="coerce").to_numpy(float)
        wrong = np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy())
        if len(wrong):
            raise InputError(
                f"Column '{key}' of {name} holds '{column.iloc[wrong[0]]}', which is no number; --state-key takes "
                f"columns of numbers."
            )
        columns.append(np.where(np.isfinite(numbers), numbers, np.nan))
    return np.stack(columns, axis=1)


def _listed(keys: object) -> str:
    names = [str(key) for key in keys if key is not None]  # type: ignore[attr-defined]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"
