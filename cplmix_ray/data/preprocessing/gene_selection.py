"""Which genes a model is trained on: those of a list, those that the object marks, or the most variable."""

import numpy as np
import pandas as pd

from cplmix_ray.config import Input
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.preprocessing.genes import highly_variable, listed_genes, most_variable, read_gene_list
from cplmix_ray.data.preprocessing.value_kinds import Values
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError

MARK = "highly_variable"
"""Column of var in which scanpy marks genes."""
AUTO = 2000
"""Number of the most variable genes that ``--hvg auto`` keeps where none are marked."""


def select_genes(
    source: Source, settings: Input, values: Values, log_matrix: Matrix
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Select the genes to train on: those of a list, else the most variable ones, else those marked in var.

    Args:
        log_matrix: log-expression of all genes.

    Returns:
        Indices of the genes in increasing order, None for all genes; and notes for the user.

    Raises:
        InputError: the list cannot be used, or the genes cannot be ranked.
    """
    keep, notes, n_genes = None, (), settings.hvg  # type: np.ndarray | None, tuple[str, ...], int | str | None
    if settings.genes is not None:
        keep, notes = listed_genes(source.var_names, read_gene_list(settings.genes), settings.genes, source.adata)
    elif n_genes in (None, "auto"):
        keep, notes = marked_genes(source)
    if n_genes == "auto" and keep is None:
        n_genes = AUTO
        if values.kind == "scaled":
            n_genes, notes = None, (*notes, "All genes are used: scaled genes all have the same variance.")
    if isinstance(n_genes, int):
        keep, said = _rank(source, n_genes, values, log_matrix, keep)
        notes = (*notes, *said)
    return keep, notes


def marked_genes(source: Source) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The genes that the column ``highly_variable`` of var marks, None where it leaves the choice open.

    Of ``raw``, whose genes may be others, the genes that var marks are meant where ``raw.var`` has no such column.
    """
    name = f"var['{MARK}'] of {source.name}"
    table = next((var for var in (source.var, source.adata.var) if MARK in var), None)
    if table is None:
        return None, ()
    marks_g = _as_booleans(table[MARK])
    if marks_g is None:
        return None, (f"{name} is not used, as it holds other values than True and False.",)
    keep = np.flatnonzero(source.var_names.isin(table.index[marks_g]))
    if len(keep) < 2:
        return None, (f"{name} is not used, as it marks {len(keep)} genes.",)
    if len(keep) == len(source.var_names):
        return None, ()
    return keep, (f"The {len(keep):,} genes marked in {name} are used; --hvg all takes all {len(source.var_names):,}.",)


def _as_booleans(column: pd.Series) -> np.ndarray | None:
    """True where a gene is marked, missing values as False; None where the values are no booleans."""
    words = column.astype(object).where(column.notna(), False).astype(str).str.lower()
    words = words.replace({"1": "true", "1.0": "true", "0": "false", "0.0": "false"})
    return (words == "true").to_numpy() if words.isin(["true", "false"]).all() else None


def _rank(
    source: Source, n_genes: int, values: Values, log_matrix: Matrix, keep: np.ndarray | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The most variable genes, among ``keep`` where it is given."""
    if values.kind == "scaled":
        raise InputError(
            f"--hvg cannot rank the genes of {source.name}, which holds {values}; leave it out, list genes with "
            f"--genes, or name unscaled values with --layer."
        )
    counts, n = values.kind == "counts", source.n_cells
    matrix, notes = source.matrix if counts else log_matrix, ()  # type: Matrix, tuple[str, ...]
    drawn_n = matrix.draw_sample(n, 0)  # the same genes for runs that differ in their seed alone
    if len(drawn_n) < n:
        notes = (f"Genes are ranked on {len(drawn_n):,} of the {n:,} cells.",)
        matrix = matrix.take(drawn_n)
    ranked = matrix.block()
    ranked = ranked if keep is None or len(keep) == ranked.shape[1] else ranked[:, keep]
    negative = source.matrix.statistics.limits[0] < 0
    best = most_variable(ranked, n_genes) if negative else highly_variable(ranked, n_genes, counts)
    return best if keep is None else keep[best], notes
