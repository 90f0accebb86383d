"""Cells from `.h5ad` files and AnnData objects."""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.data.io.h5ad_backed import RAW, backed_matrix, listed, no_layer
from cplmix_ray.data.io.h5ad_parts import is_old, read_parts
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.block import native_numbers
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.matrix.row_sample import SAMPLED
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.hdf5_errors import hdf5_errors, ignore_warnings
from cplmix_ray.data.validation.hdf5_safety import require_safe
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrices, check_sparse_matrix
from cplmix_ray.data.validation.subprocess_probe import open_probed
from cplmix_ray.utils.errors import InputError


def read_h5ad(path: str | Path) -> tuple[anndata.AnnData, tuple[str, ...]]:
    """Read a whole `.h5ad`; sparse matrices stay sparse.

    Returns:
        The object, and a note for each entry that cannot be read and was left out.

    Raises:
        InputError: the file cannot be read.
    """
    with hdf5_errors(path), ignore_warnings(), open_probed(path) as file:
        require_safe(file, str(path))
        try:
            return _read_whole(path), ()
        except MemoryError:
            raise
        except Exception:
            if is_old(file):
                raise
        return read_parts(file, str(path))


def read_annotations(path: str | Path, wanted: tuple[str, ...]) -> anndata.AnnData:
    """Read obs, var and the other wanted parts of an `.h5ad`, such as obsm and uns, without its matrices.

    Raises:
        InputError: the file cannot be read.
    """
    with hdf5_errors(path), ignore_warnings(), open_probed(path) as file:
        require_safe(file, str(path))
        return _read_whole(path) if is_old(file) else read_parts(file, str(path), wanted)[0]


def _read_whole(path: str | Path) -> anndata.AnnData:
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

    X of a backed object stays in its file; all else is what the object has in memory, where it may have been changed.
    """
    choices = _choices(adata)
    if layer is not None and layer not in choices:
        raise no_layer(name, layer, choices)
    others = {key: partial(_sample, read) for key, read in choices.items() if key != (layer or "X")}
    if adata.isbacked and layer is None and not adata.is_view:  # anndata reads layers, and X of a view, into memory
        on_disk = backed_matrix(adata, name)
        return with_values(adata, on_disk, labels_key, name, state_key, notes, others=others)
    values = _loaded(adata.X if layer is None else choices[layer]())
    if sp.issparse(values):
        check_sparse_matrix(values, "X" if layer is None else f"layers['{layer}']", name)
    matrix = None if values is None else _in_memory(values)
    raw_var = adata.raw.var if layer == RAW and RAW not in adata.layers else None
    return with_values(adata, matrix, labels_key, name, state_key, notes, raw_var, others)


def _choices(adata: anndata.AnnData) -> dict[str, Callable[[], Any]]:
    """What ``--layer`` takes -> gives that matrix. A layer of the name X or raw comes before those."""
    choices: dict[str, Callable[[], Any]] = {}
    with contextlib.suppress(KeyError):  # of a backed object without X
        if adata.X is not None:
            choices["X"] = lambda: adata.X
    if adata.raw is not None:
        choices[RAW] = lambda: adata.raw.X
    return {**choices, **{key: partial(adata.layers.__getitem__, key) for key in adata.layers}}


def _loaded(values: Any) -> Any:
    """Load a matrix into memory: X and raw of a backed AnnData object are views of its file."""
    return values.to_memory() if hasattr(values, "to_memory") else values


def _in_memory(values: Any) -> InMemoryMatrix:
    values = sp.csr_matrix(values) if sp.issparse(values) else np.asarray(values)
    return InMemoryMatrix(native_numbers(values) if values.dtype.kind in "uifb" else values)


def _sample(read: Callable[[], Any]) -> Matrix:
    values = _loaded(read())
    return _in_memory(values[:: max(1, values.shape[0] // SAMPLED)])


def with_values(
    adata: anndata.AnnData,
    matrix: Matrix | None,
    labels_key: str | None,
    name: str,
    state_key: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    raw_var: pd.DataFrame | None = None,
    others: Mapping[str, Callable[[], Matrix]] = MappingProxyType({}),
) -> Source:
    """Cells whose matrix was chosen, with their labels and known states, all checked."""
    if matrix is None:
        raise InputError(f"{name} has no X; name the layer that holds the expression with --layer.")
    genes, of = (adata.var_names, "") if raw_var is None else (raw_var.index, "raw of ")
    if adata.n_obs == 0 or len(genes) == 0:
        raise InputError(f"{of}{name} is empty: {adata.n_obs} cells x {len(genes)} genes.")
    if not genes.is_unique:
        twice, remedy = genes[genes.duplicated()][0], "call adata.var_names_make_unique() and save"
        if raw_var is not None:
            remedy = "make them unique in adata.raw.to_adata(), save that and give it"
        raise InputError(f"{of}{name} names gene '{twice}' more than once; {remedy}.")
    if matrix.dtype.kind not in "uifb":
        raise InputError(f"The expression matrix of {name} holds {matrix.dtype}, not numbers.")
    labels_n, truth_nm = _labels(adata, labels_key, name), _states(adata, state_key, name)
    return Source(
        adata, matrix, name, labels_n=labels_n, truth_nm=truth_nm, notes=notes, raw_var=raw_var, others=others
    )


def _labels(adata: anndata.AnnData, key: str | None, name: str) -> np.ndarray | None:
    if key is None:
        return None
    if key not in adata.obs:
        raise InputError(f"{name} has no column '{key}' in obs for --labels-key; it has {listed(adata.obs)}.")
    column = pd.Series(adata.obs[key])
    return np.where(column.isna(), "", column.astype(str)).astype(str)


def _states(adata: anndata.AnnData, keys: tuple[str, ...], name: str) -> np.ndarray | None:
    if not keys:
        return None
    columns = []
    for key in keys:
        if key not in adata.obs:
            raise InputError(f"{name} has no column '{key}' in obs for --state-key; it has {listed(adata.obs)}.")
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
