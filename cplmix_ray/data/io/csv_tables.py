"""Expression matrices in CSV files, read in chunks into a sparse matrix."""

import contextlib
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.data.io.text_file import open_text
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

CHUNK_VALUES = 20_000_000
"""Values that are held dense at once."""
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")


@dataclass(frozen=True)
class Table:
    """A matrix with names for its rows and columns.

    Attributes:
        columns, rows: names; columns that were not wanted are left out.
        values: CSR, float32.
    """

    columns: list[str]
    rows: list[str]
    values: sp.csr_matrix


def no_table(path: str | Path, error: Exception) -> InputError:
    """The error for a file that is no table, in place of the many exceptions of pandas and gzip."""
    if isinstance(error, InputError):
        return error
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"Cannot read {path} as a CSV file ({reason}).")


def read_header(path: str) -> list[str]:
    """Names of the columns after the first, which names the rows.

    Raises:
        InputError: the file is missing, empty or no table.
    """
    try:
        with open_text(path) as file:
            lines = csv.reader(file, delimiter=_separator(path))
            header, first = next(lines, []), next(lines, [])
    except Exception as error:
        raise no_table(path, error) from None
    if len(header) < 2 or not first:
        raise InputError(f"{path} holds no table: a line of names and then a line for each cell (or gene) is needed.")
    # R writes a line of names without a place for the column of row names.
    return header if len(first) == len(header) + 1 else header[1:]


def read_table(path: str, keep_column: np.ndarray) -> Table:
    """Read the wanted part of a matrix.

    Raises:
        InputError: a value is no number, a line is too long, the file ends early, or there is not the memory for it.
    """
    columns = read_header(path)
    wanted = [name for name, keep in zip(columns, keep_column, strict=True) if keep]
    rows: list[str] = []
    parts: list[sp.csr_matrix] = []
    n_bytes = 0
    for names, values in _pieces(path, columns):
        rows += names
        parts.append(sp.csr_matrix(values[:, keep_column]))
        n_bytes += parts[-1].data.nbytes + parts[-1].indices.nbytes + parts[-1].indptr.nbytes
        if n_bytes > free_memory():  # the parts are put together in the end
            raise InputError(
                f"{path} does not fit into memory: {n_bytes / 2**30:,.1f} GB are taken by its first {len(rows):,} "
                f"lines, and less is free; write it as a sparse .h5ad, which can stay on disk."
            )
    return Table(wanted, rows, sp.vstack(parts, format="csr"))


def _pieces(path: str, columns: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and values of some lines, then of the next."""
    size = max(1, CHUNK_VALUES // len(columns))
    done = 0
    try:
        with open_text(path) as file:
            file.readline()
            kinds = {0: str, **dict.fromkeys(range(1, len(columns) + 1), np.float32)}
            options = {"header": None, "names": range(len(columns) + 1), "sep": _separator(path), "index_col": False}
            reader = pd.read_csv(
                file, **options, dtype=kinds, chunksize=size, keep_default_na=True, na_values={0: []}, low_memory=False
            )
            for piece in reader:
                yield piece[0].astype(str).to_list(), piece.iloc[:, 1:].to_numpy(np.float32)
                done += len(piece)
    except Exception as error:
        said = None
        if isinstance(error, ValueError) and not isinstance(error, pd.errors.ParserError | UnicodeError):
            with contextlib.suppress(Exception):  # the file may be broken in other ways too
                said = _not_a_number(path, columns, done)
        raise (InputError(said) if said else no_table(path, error)) from None


def _not_a_number(path: str, columns: list[str], first: int) -> str | None:
    """A message that names the first value that is no number, beyond the first ``first`` lines."""
    with open_text(path) as file:
        lines = csv.reader(file, delimiter=_separator(path))
        for at, line in enumerate(lines):
            if at <= first:
                continue
            for name, word in zip(columns, line[1:], strict=False):
                if pd.isna(pd.to_numeric(word.strip() or "0", errors="coerce")):
                    return (
                        f"{path} holds '{word[:40]}' in row '{line[0]}' and column '{name}', which is no number; the "
                        f"matrix may hold nothing but names and numbers."
                    )
    return None


def _separator(path: str) -> str:
    return "\t" if ".tsv" in Path(path).name else ","
