"""Cells from `.h5ad` files and AnnData objects."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.data.io.h5ad_backed import read_around
from cplmix_ray.data.matrix.hdf5_matrix import numbers_of, quiet, reading
from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.source import Source, Values
from cplmix_ray.data.validation.hdf5_safety import require_enclosed
from cplmix_ray.data.validation.sparse_checks import require_sound, require_sound_matrix
from cplmix_ray.data.validation.subprocess_probe import rehearsed
from cplmix_ray.utils.errors import InputError


def read_h5ad(path: str | Path) -> anndata.AnnData:
    """Read a whole `.h5ad`; sparse matrices stay sparse.

    Raises:
        InputError: the file cannot be read.
    """
    with reading(path), quiet():
        with rehearsed(path) as file:
            require_enclosed(file, str(path))
        adata = anndata.read_h5ad(path)
    require_sound(adata, str(path))
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
        require_sound_matrix(values, "X" if layer is None else f"layers['{layer}']", name)
    values = sp.csr_matrix(values) if sp.issparse(values) else None if values is None else np.asarray(values)
    if values is not None and values.dtype.kind in "uifb":
        values = numbers_of(values)
    return with_values(adata, values, labels_key, name, state_key, notes)


def open_h5ad(path: str, layer: str | None) -> tuple[anndata.AnnData, RowsOnDisk | None]:
    """An `.h5ad` without its matrices, and the wanted one, which stays in the file.

    Raises:
        InputError: it cannot be read.
    """
    adata, layout = read_around(path, layer)
    return adata, None if layout is None else RowsOnDisk(layout)


def with_values(
    adata: anndata.AnnData,
    values: Values,
    labels_key: str | None,
    name: str,
    state_key: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Source:
    """Cells whose matrix was chosen, with their labels and known states, all checked."""
    if values is None:
        raise InputError(f"{name} has no X; name the layer that holds the expression with --layer.")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise InputError(f"{name} is empty: {adata.n_obs} cells x {adata.n_vars} genes.")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()][0]
        raise InputError(f"{name} names gene '{twice}' more than once; call adata.var_names_make_unique() and save.")
    dtype = values.layout.dtype if isinstance(values, RowsOnDisk) else values.dtype
    if dtype.kind not in "uifb":
        raise InputError(f"The expression matrix of {name} holds {dtype}, not numbers.")
    labels_n, truth_nm = _labels(adata, labels_key, name), _states(adata, state_key, name)
    return Source(adata, values, name, labels_n=labels_n, truth_nm=truth_nm, notes=notes)


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
