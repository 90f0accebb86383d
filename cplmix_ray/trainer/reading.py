"""From rows of the data to the rows of a minibatch, on the device that computes."""

from collections.abc import Callable

import scipy.sparse as sp
import torch
from torch import Tensor

from cplmix_ray.data.source import Values
from cplmix_ray.data.training_set import take_rows
from cplmix_ray.minibatch import DenseRows, Rows, SparseRows
from cplmix_ray.minibatch.sparse import DENSE_FROM

Reader = Callable[[Tensor], Rows]
"""Reads rows, given by their indices on the CPU."""


def row_reader(values_ng: Values, device: torch.device) -> Reader:
    """Rows stay sparse where that is faster: on the CPU, and where most values are zero."""

    def read(idx_n: Tensor) -> Rows:
        taken = take_rows(values_ng, idx_n.numpy())
        if not sp.issparse(taken):
            return DenseRows(torch.from_numpy(taken).to(device))
        if device.type == "cpu" and taken.nnz < DENSE_FROM * taken.shape[0] * taken.shape[1]:
            return SparseRows.from_csr(taken)
        return DenseRows(_filled_in(taken, device))

    return read


def _filled_in(taken: sp.csr_matrix, device: torch.device) -> Tensor:
    """Dense on the device; what travels to a GPU are the values that are not zero."""
    if device.type == "cpu":
        return torch.from_numpy(taken.toarray())
    rows_m = torch.arange(taken.shape[0]).repeat_interleave(torch.from_numpy(taken.indptr).diff())
    at_m = rows_m * taken.shape[1] + torch.from_numpy(taken.indices)
    x_ng = torch.zeros(taken.shape, device=device)
    x_ng.view(-1)[at_m.to(device)] = torch.from_numpy(taken.data).to(device)
    return x_ng
