"""Annotations of cells in a CSV file beside the matrix."""

from collections.abc import Sequence
from pathlib import Path

import anndata
import pandas as pd

from cplmix_ray.data.io.csv_tables import no_table
from cplmix_ray.data.io.text_file import open_text
from cplmix_ray.utils.errors import InputError

_ID = "sample_name"
"""The column with the cells' names in the Allen Institute's files; elsewhere it is the first column."""


def read_metadata(paths: str) -> pd.DataFrame:
    """A line for each cell, by the cell's name; of several files (a comma between them) one below the other.

    Raises:
        InputError: a file is missing or broken, or names a cell more than once.
    """
    table = pd.concat([_read(path) for path in paths.split(",")])
    twice = table.index[table.index.duplicated()]
    if len(twice):
        raise InputError(
            f"--metadata {paths} names cell '{twice[0]}' more than once in column '{table.index.name}'; put the cells' "
            f"names in the first column, or call their column {_ID}, and name each cell once."
        )
    for name in table:
        if not (pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name])):
            # Mixed columns cannot be written; as categories they can.
            table[name] = pd.Categorical(table[name].where(table[name].isna(), table[name].astype(str)))
    return table


def join_metadata(
    adata: anndata.AnnData, table: pd.DataFrame, data: str, metadata: str
) -> tuple[anndata.AnnData, tuple[str, ...]]:
    """The cells that have a line, with its columns in obs; columns of the same name give way.

    Raises:
        InputError: no cell has a line, or two cells have the same name.
    """
    require_unique(list(adata.obs_names), "cell", data)
    both, notes = _match_cells(list(adata.obs_names), table, data, metadata)
    kept = adata[both].copy() if len(both) < adata.n_obs else adata.copy()
    replaced = [name for name in table if name in kept.obs]
    if replaced:
        notes.append(f"Columns of {metadata} take the place of those in obs: {', '.join(map(str, replaced))}.")
    joined = table.loc[kept.obs_names]
    for name in joined:
        kept.obs[name] = joined[name].to_numpy() if joined[name].dtype != "category" else joined[name].array
    return kept, tuple(notes)


def require_unique(names: Sequence[str], what: str, where: str) -> None:
    """Refuse names of which one is there more than once.

    Args:
        what: what they name, 'cell' or 'gene'.

    Raises:
        InputError: one is.
    """
    twice = pd.Index(names)[pd.Index(names).duplicated()]
    if len(twice):
        place = "in the first column" if what == "cell" else "in the first line"
        raise InputError(
            f"{where} names {what} '{twice[0]}' more than once; name each {what} once, {place} of cells x genes."
        )


def _match_cells(names: Sequence[str], metadata: pd.DataFrame, data: str, paths: str) -> tuple[pd.Index, list[str]]:
    """The cells that have a line in the metadata, in the order of ``names``; and what to say of the others.

    Raises:
        InputError: none has.
    """
    index = pd.Index(names)
    both = index[index.isin(metadata.index)]
    if not len(both):
        raise InputError(
            f"No cell of {data} (first: '{index[0] if len(index) else ''}') has a line in --metadata {paths} (first: "
            f"'{metadata.index[0]}'); the first column of both must hold the cells' names."
        )
    notes = []
    if len(both) < len(index):
        notes.append(f"{len(index) - len(both)} of {len(index)} cells of {data} have no line in {paths}: left out.")
    if len(both) < len(metadata):
        notes.append(f"{len(metadata) - len(both)} of {len(metadata)} cells of {paths} are not in {data}.")
    return both, notes


def _read(path: str) -> pd.DataFrame:
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}; check the path given to --metadata.")
    try:
        with open_text(path, whole=True) as file:
            table = pd.read_csv(file, low_memory=False, sep="\t" if ".tsv" in Path(path).name else ",", index_col=False)
    except Exception as error:
        raise no_table(path, error) from None
    if not len(table) or not len(table.columns):
        raise InputError(f"{path} holds no cells: a line of column names and then a line for each cell is needed.")
    column = _ID if _ID in table else table.columns[0]
    names = table.pop(column)
    if names.isna().any():
        raise InputError(f"{path} has lines without a name in column '{column}', which must name the cells.")
    table.columns = table.columns.astype(str)
    table.index = pd.Index(names.astype(str), name=str(column))
    return table
