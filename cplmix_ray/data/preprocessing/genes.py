"""Genes: reading lists of them, choosing and matching."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.preprocessing.gene_names import match_genes, renaming_remedy
from cplmix_ray.utils.errors import InputError

_HEADINGS = {"", "gene", "genes", "gene_name", "gene_names", "gene_symbol", "x"}


def read_gene_list(path: str, option: str = "--genes") -> list[str]:
    """Gene names, one on each line: the first column of a CSV file, a heading such as 'genes' left out.

    Raises:
        InputError: the file is missing, is no text, holds nothing or names a gene twice.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}; check the path given to {option}.")
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [line.split(",")[0].strip().strip('"') for line in file if line.strip()]
    except (UnicodeError, OSError):
        raise InputError(f"{path} is no text file; give one with a gene name on each line to {option}.") from None
    if names and names[0].lower() in _HEADINGS:
        names = names[1:]
    if not names:
        raise InputError(f"{path} names no gene; give a file with a gene name on each line to {option}.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{path} names gene '{name}' more than once; name each gene once.")
        seen.add(name)
    return names


def highly_variable(values_ng: Block, n_genes: int, counts: bool) -> np.ndarray:
    """Indices of the most variable genes, in their old order, by scanpy.

    Raw counts are ranked by the variance of their analytic Pearson residuals (Lause et al. 2021), log-expression by
    normalised dispersion (Zheng et al. 2017).
    """
    if n_genes >= values_ng.shape[1]:
        return np.arange(values_ng.shape[1])
    import scanpy  # takes seconds

    from cplmix_ray.utils.threads import torch_threads  # imports torch, which gene lists do without

    expressed = np.flatnonzero(np.asarray((values_ng != 0).sum(axis=0)).ravel())
    if n_genes >= len(expressed):
        return expressed
    values = values_ng[:, expressed].astype(np.float32)
    adata = anndata.AnnData(X=values, var=pd.DataFrame(index=[str(gene) for gene in expressed]))
    with torch_threads(None):  # numba, below scanpy, sets the number for all libraries of the process
        if counts:
            rank = scanpy.experimental.pp.highly_variable_genes
            table = rank(adata, n_top_genes=n_genes, flavor="pearson_residuals", inplace=False)
        else:
            table = scanpy.pp.highly_variable_genes(adata, n_top_genes=n_genes, flavor="cell_ranger", inplace=False)
    return expressed[table["highly_variable"].to_numpy()]


def most_variable(values_ng: Block, n_genes: int) -> np.ndarray:
    """Indices of the genes of largest variance, in their old order: the ranking of residuals."""
    spread_g = np.asarray(values_ng.toarray() if sp.issparse(values_ng) else values_ng).var(axis=0)
    return np.sort(np.argsort(-spread_g, kind="stable")[:n_genes])


def listed_genes(
    var_names: pd.Index, wanted: list[str], path: str, adata: anndata.AnnData
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Indices, in their old order, of the genes that a list names; and what to say of those that are not there.

    Args:
        adata: the object that has these genes, in which a remedy is looked for where none is there.

    Raises:
        InputError: none is there.
    """
    at, _ = match_genes(var_names, wanted)
    if (at < 0).all():
        first = f"None of the {len(wanted)} genes in {path} is in the data, whose first is '{var_names[0]}'"
        remedy = renaming_remedy(adata, wanted)
        raise InputError(f"{first}; {remedy}." if remedy else f"{first}.")
    missing = [gene for gene, i in zip(wanted, at, strict=True) if i < 0]
    if not missing:
        return np.sort(at), ()
    note = f"{len(missing)} of the {len(wanted)} genes in {path} are not in the data (first: '{missing[0]}')."
    return np.sort(at[at >= 0]), (note,)


def columns_of(
    var_names: pd.Index, wanted: tuple[str, ...], name: str, adata: anndata.AnnData | None = None
) -> np.ndarray:
    """Where the wanted genes stand among ``var_names``.

    Args:
        adata: the object that has these genes, in which a remedy is looked for where some are missing.

    Raises:
        InputError: some are missing.
    """
    at, _ = match_genes(var_names, wanted)
    missing = [gene for gene, i in zip(wanted, at, strict=True) if i < 0]
    if missing:
        remedy = None if adata is None else renaming_remedy(adata, wanted)
        raise InputError(
            f"{name} lacks {len(missing)} of the {len(wanted)} genes that the model was trained on "
            f"(first: '{missing[0]}'); {remedy or 'give cells with the same gene names'}."
        )
    return at
