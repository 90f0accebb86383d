"""Cells from CSV files, in the layouts of the Allen Institute's cortical data sets and others like them.

Smart-seq (Tasic et al. 2018): ``..._exon-matrix.csv``, genes x cells, the genes by number, their symbols in
``..._genes-rows.csv``; cells in ``..._samples-columns.csv``. 10x (Yao et al. 2021): ``matrix.csv``, cells x genes, and
``metadata.csv``. Both name the cells in a column ``sample_name``.
"""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.data.io.csv_tables import SUFFIXES, no_table, read_header, read_table
from cplmix_ray.data.io.metadata import join_metadata, read_metadata, require_unique
from cplmix_ray.data.io.text_file import open_text
from cplmix_ray.utils.errors import InputError


def is_table(path: str) -> bool:
    """Whether a name, or every one of several with commas between them, is that of a CSV file."""
    return all(part.endswith(SUFFIXES) for part in path.split(","))


def read_csv_cells(data: str, metadata: str | None) -> tuple[anndata.AnnData, tuple[str, ...]]:
    """Cells x genes from one matrix or several with the same genes, and what the user should know.

    With metadata, the orientation is told from the cells' names and cells without metadata are left out; without,
    each line is a cell.

    Raises:
        InputError: a file is missing or broken, or names do not match.
    """
    table = None if metadata is None else read_metadata(metadata)
    parts: list[sp.csr_matrix] = []
    names: list[str] = []
    notes: list[str] = []
    genes: list[str] | None = None
    for path in data.split(","):
        cells, own_genes, values, said = _read_one(path, None if table is None else table.index)
        if genes is not None and genes != own_genes:
            raise InputError(f"The files of --data {data} hold different genes, or in another order; make them alike.")
        genes, names = own_genes, names + cells
        parts.append(values)
        notes += said
    require_unique(names, "cell", data)
    assert genes is not None
    require_unique(genes, "gene", data)
    adata = anndata.AnnData(
        sp.vstack(parts, format="csr"), obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes)
    )
    if table is None or metadata is None:
        return adata, tuple(notes)
    adata, more = join_metadata(adata, table, data, metadata)
    return adata, (*notes, *more)


def _read_one(path: str, known: pd.Index | None) -> tuple[list[str], list[str], sp.csr_matrix, list[str]]:
    """Names of cells and genes, values cells x genes, notes."""
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}; check the path given to --data.")
    columns = read_header(path)
    are_cells = np.zeros(len(columns), bool) if known is None else pd.Index(columns).isin(known)
    if not are_cells.any():
        # Cells that have no metadata are counted and left out later, where both sides are known.
        table = read_table(path, np.ones(len(columns), bool))
        return table.rows, table.columns, table.values, []
    require_unique(columns, "cell", path)
    table = read_table(path, are_cells)
    genes, notes = _symbols(path, table.rows)
    if not are_cells.all():
        notes.append(f"{int((~are_cells).sum())} of {len(columns)} cells of {path} have no metadata: left out.")
    return table.columns, genes, table.values.T.tocsr(), [f"{path} holds genes x cells.", *notes]


def _symbols(path: str, ids: list[str]) -> tuple[list[str], list[str]]:
    """Symbols of genes that go by number, from the publisher's file beside the matrix where there is one."""
    beside = Path(re.sub(r"_(exon|intron|exon\+intron)[^/]*-?matrix\.csv(\.gz)?$", "_genes-rows.csv", path))
    if str(beside) == path or not beside.is_file():
        return ids, []
    try:
        with open_text(beside, whole=True) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except Exception as error:
        raise no_table(beside, error) from None
    by = next((name for name in table if set(ids) <= set(table[name])), None)
    if "gene_symbol" not in table or by is None:
        raise InputError(f"{beside} does not name the genes of {path}: it needs gene_symbol and a column of their ids.")
    symbol = dict(zip(table[by], table["gene_symbol"], strict=True))
    return [symbol[gene] for gene in ids], [f"Genes are named by gene_symbol of {beside}."]
