"""Choosing and matching genes."""

import anndata
import numpy as np
import pandas as pd

from cplmix_ray.data.source import Values
from cplmix_ray.errors import InputError


def highly_variable(log_values_ng: Values, n_genes: int) -> np.ndarray:
    """Indices of the most variable genes, in their old order, by scanpy's dispersion ranking of log-expression.

    Raises:
        InputError: scanpy is not installed.
    """
    if n_genes >= log_values_ng.shape[1]:
        return np.arange(log_values_ng.shape[1])
    try:
        import scanpy
    except ImportError:
        raise InputError("--hvg needs scanpy; install it with: pip install 'cplmix_ray[scanpy]'.") from None
    var = pd.DataFrame(index=[str(i) for i in range(log_values_ng.shape[1])])
    adata = anndata.AnnData(X=log_values_ng, var=var)
    table = scanpy.pp.highly_variable_genes(adata, n_top_genes=n_genes, flavor="seurat", inplace=False)
    return np.flatnonzero(table["highly_variable"].to_numpy())


def columns_of(var_names: pd.Index, wanted: tuple[str, ...], name: str) -> np.ndarray:
    """Where the wanted genes stand among ``var_names``.

    Raises:
        InputError: some are missing.
    """
    at = var_names.get_indexer(list(wanted))
    missing = [gene for gene, i in zip(wanted, at, strict=True) if i < 0]
    if missing:
        raise InputError(
            f"{name} lacks {len(missing)} of the {len(wanted)} genes that the model was trained on "
            f"(first: '{missing[0]}'); give cells with the same gene names."
        )
    return at
