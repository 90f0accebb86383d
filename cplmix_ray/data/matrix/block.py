"""Blocks of rows in memory."""

from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp

Block: TypeAlias = Any
"""Rows in memory: a dense array or a CSR matrix, for which SciPy has no useful static type."""


def find_not_finite(block: Block) -> tuple[int, tuple[int, int] | None]:
    """How many values are NaN or infinite, and (row, column) of the first."""
    data = block.data if sp.issparse(block) else block
    if data.dtype.kind != "f" or np.isfinite(data).all():
        return 0, None
    values = sp.coo_matrix(block)
    wrong = np.flatnonzero(~np.isfinite(values.data))
    return len(wrong), (int(values.row[wrong[0]]), int(values.col[wrong[0]]))


def contiguous(block: Block) -> Block:
    """The same rows, dense ones in C order."""
    return block if sp.issparse(block) else np.ascontiguousarray(block)


def native_numbers(block: Block) -> Block:
    """The same values in types that SciPy and PyTorch know.

    They come in the machine's byte order, float16 as float32 and wider floats as float64; a sparse matrix in canonical
    format, with signed native indices.
    """
    if block.dtype.kind == "f" and block.dtype.itemsize not in (4, 8):
        block = block.astype(np.float32 if block.dtype.itemsize == 2 else np.float64)
    elif not block.dtype.isnative:
        block = block.astype(block.dtype.newbyteorder("="))
    if sp.issparse(block) and not (block.indices.dtype.isnative and block.indices.dtype.kind == "i"):
        wide = np.int64 if block.indices.dtype.itemsize > 4 else np.int32
        parts = (block.data, block.indices.astype(wide), block.indptr.astype(wide))
        block = sp.csr_matrix(parts, shape=block.shape)
    if sp.issparse(block) and not block.has_canonical_format:
        block = block.copy()
        block.sum_duplicates()
    return block
