"""The cells of a minibatch as one arm sees them, dense or sparse, and their products with gene-wide weights."""

from cplmix_ray.minibatch.cells import Cells, rows_of_arms
from cplmix_ray.minibatch.dense import DenseRows, GatheredRows
from cplmix_ray.minibatch.masks import kept
from cplmix_ray.minibatch.rows import Rows
from cplmix_ray.minibatch.shards import WHOLE, Shards
from cplmix_ray.minibatch.sparse import SparseRows
from cplmix_ray.minibatch.stacked import StackedRows, stacked

__all__ = [
    "WHOLE",
    "Cells",
    "DenseRows",
    "GatheredRows",
    "Rows",
    "Shards",
    "SparseRows",
    "StackedRows",
    "kept",
    "rows_of_arms",
    "stacked",
]
