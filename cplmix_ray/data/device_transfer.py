"""From rows of the data to the rows of a minibatch, on the device that computes."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from cplmix_ray.data.matrix.base import Matrix, RowReader
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.nn.dense_rows import DenseRows, GatheredRows
from cplmix_ray.nn.rows import Rows
from cplmix_ray.nn.sparse_rows import DENSE_FROM, SparseRows

Reader = Callable[[Tensor], Rows]
"""Reads rows, given by their indices on the CPU."""


def row_reader(matrix: RowReader, device: torch.device) -> Reader:
    """Rows stay sparse where that is faster: on the CPU, and where most values are zero. Dense ones are not copied
    there, but gathered where they are needed."""

    values_ng = matrix.dense_array
    if values_ng is not None and values_ng.dtype == np.float32 and device.type == "cpu":
        return lambda idx_n: GatheredRows(values_ng, idx_n.numpy())
    return lambda idx_n: _onto(matrix.rows(idx_n.numpy()), device)


def in_order(matrix: Matrix, size: int, device: torch.device) -> Generator[Rows, None, None]:
    """All rows, ``size`` at a time; from disk, a thread reads the next ones while the present ones are at work.

    Raises:
        InputError: the file is gone or broken.
    """
    parts = [np.arange(at, min(at + size, matrix.n_cells)) for at in range(0, matrix.n_cells, size)]
    if not matrix.on_disk:
        for part in parts:
            yield _onto(matrix.rows(part), device)
        return
    with matrix.opened() as read, ThreadPoolExecutor(1, thread_name_prefix="cells") as thread:
        coming = None if not parts else thread.submit(read, parts[0])
        for number in range(1, len(parts) + 1):
            assert coming is not None
            present = coming.result()
            coming = None if number == len(parts) else thread.submit(read, parts[number])
            yield _onto(present, device)


def _onto(taken: Block, device: torch.device) -> Rows:
    if not sp.issparse(taken):
        return DenseRows(torch.from_numpy(taken).to(device))
    if device.type == "cpu" and taken.nnz < DENSE_FROM * taken.shape[0] * taken.shape[1]:
        return SparseRows.from_csr(taken)
    return DenseRows(_filled_in(taken, device))


def _filled_in(taken: sp.csr_matrix, device: torch.device) -> Tensor:
    """Dense on the device; what travels to a GPU are the values that are not zero."""
    if device.type == "cpu":
        return torch.from_numpy(taken.toarray())
    rows_m = torch.arange(taken.shape[0]).repeat_interleave(torch.from_numpy(taken.indptr).diff())
    at_m = rows_m * taken.shape[1] + torch.from_numpy(taken.indices)
    x_ng = torch.zeros(taken.shape, device=device)
    x_ng.view(-1)[at_m.to(device)] = torch.from_numpy(taken.data).to(device)
    return x_ng
