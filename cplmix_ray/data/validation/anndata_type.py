"""A check for what is given in place of an AnnData object."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.utils.errors import ArgumentTypeError


def require_anndata(adata: object) -> None:
    """Check the type of an argument.

    Raises:
        ArgumentTypeError: it is no AnnData object; the message says how to make one of it.
    """
    if isinstance(adata, anndata.AnnData):
        return
    remedy = "give one, cells x genes"
    if adata is None:
        remedy = "functions that change an object in place, as most of scanpy's do, return None"
    elif isinstance(adata, str | Path):
        remedy = f"read the file first: adata = anndata.read_h5ad({str(adata)!r})"
    elif isinstance(adata, pd.DataFrame | np.ndarray) or sp.issparse(adata):
        remedy = "make one of cells x genes: adata = anndata.AnnData(...)"
    elif isinstance(adata, anndata.Raw):
        remedy = "make one of it: adata = adata.raw.to_adata()"
    elif isinstance(adata, list | tuple | dict):
        remedy = "join several with anndata.concat"
    elif hasattr(adata, "mod"):  # MuData
        remedy = f"give one of its modalities: adata = mdata[{next(iter(adata.mod), 'rna')!r}]"
    raise ArgumentTypeError(f"adata must be an AnnData object, not {described(adata)}; {remedy}.")


def described(value: object) -> str:
    """The type of a value, in messages about it."""
    return "None" if value is None else type(value).__name__
