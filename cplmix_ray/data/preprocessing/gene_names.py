"""Matching of gene names between data sets: Ensembl versions, and what else differs where names do not match."""

from collections.abc import Iterator, Sequence

import anndata
import numpy as np
import pandas as pd

_VERSIONED = r"^(ENS[A-Z]{0,6}[0-9]{11})\.[0-9]+$"


def match_genes(var_names: pd.Index, wanted: Sequence[str]) -> tuple[np.ndarray, bool]:
    """Find genes by name.

    Versions of Ensembl identifiers (the 7 of ENSG00000141510.7) are ignored where more genes are found without them:
    the identifier alone names the gene, and the version only counts the changes of its annotation. This is done only
    if no two names differ in nothing but the version. Other differences, such as case, may mean another gene or
    species, so they are left to the user (see :func:`renaming_remedy`).

    Returns:
        Index of each wanted gene, -1 where it is missing; and whether versions were ignored.
    """
    exact = var_names.get_indexer(list(wanted))
    if (exact >= 0).all():
        return exact, False
    own, others = _without_version(var_names), _without_version(pd.Index(wanted))
    if own.is_unique and others.is_unique:
        found = own.get_indexer(others)
        if (found >= 0).sum() > (exact >= 0).sum():
            return found, True
    return exact, False


def version_note(var_names: pd.Index, wanted: Sequence[str], name: str) -> str | None:
    """What the user should know if genes are matched without their versions; None if they are not."""
    at, ignored = match_genes(var_names, wanted)
    if not ignored:
        return None
    gene, first = next((gene, i) for gene, i in zip(wanted, at, strict=True) if i >= 0 and gene != var_names[i])
    return (
        f"Genes of {name} are matched without their Ensembl versions: '{var_names[first]}' is taken for the model's "
        f"'{gene}'."
    )


def renaming_remedy(adata: anndata.AnnData, wanted: Sequence[str]) -> str | None:
    """A line of Python after which an object has more of the wanted genes, and why; None where none is known."""
    others = _without_version(pd.Index(wanted))

    def n_found(names: pd.Index) -> int:
        return int(others.isin(_without_version(names)).sum())

    counted = [(n_found(names), what, line) for names, what, line in _other_names(adata)]
    found, what, line = max(counted, key=lambda each: each[0])
    return f"{what} {found} of them: {line}" if found > n_found(adata.var_names) else None


def _other_names(adata: anndata.AnnData) -> Iterator[tuple[pd.Index, str, str]]:
    """Yield alternative gene names, a description of where they are stored, and the Python line that sets them."""
    for column, values in adata.var.items():
        if not pd.api.types.is_numeric_dtype(values):
            line = f"adata.var_names = adata.var[{column!r}].astype(str)"
            line += "" if values.is_unique else "; adata.var_names_make_unique()"
            yield pd.Index(values.astype(str)), f"var[{column!r}] has", line
    if adata.raw is not None:
        yield adata.raw.var_names, "its raw has", "adata = adata.raw.to_adata()"
    names = adata.var_names.astype(str)
    for change in ("upper", "lower", "capitalize"):
        line = f"adata.var_names = adata.var_names.str.{change}()"
        yield getattr(names.str, change)(), f"str.{change}() of its names gives", line
    prefix = r"^[^_]+_+"
    line = f"adata.var_names = adata.var_names.str.replace(r'{prefix}', '', regex=True)"
    yield names.str.replace(prefix, "", regex=True), "its names without their prefix are", line
    yield adata.obs_names, "its obs_names are", "adata = adata.T"


def _without_version(names: pd.Index) -> pd.Index:
    return names.astype(str).str.replace(_VERSIONED, r"\1", regex=True)
