"""`.h5` files of Cell Ranger (10x Genomics), version 2 or newer."""

import contextlib

from cplmix_ray.data.io.cell_format import CellFormat, ReadOptions
from cplmix_ray.data.io.cells_in_memory import format_errors, genes_alone, source_in_memory
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.hdf5_safety import Node, require_safe
from cplmix_ray.data.validation.regular_file import is_file
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrices
from cplmix_ray.data.validation.subprocess_probe import open_probed

_PARTS = {"barcodes", "data", "indices", "indptr", "shape"}


def is_tenx_h5(data: str) -> bool:
    """Whether a file is one of Cell Ranger, which has other groups than an `.h5ad` of the same ending."""
    if not data.endswith((".h5", ".hdf5")) or not is_file(data):
        return False
    with contextlib.suppress(Exception), open_probed(data) as file:
        return "X" not in file and any(set(node) >= _PARTS for node in file.values() if _is_group(node))
    return False


def _is_group(node: Node) -> bool:
    return hasattr(node, "keys")


def read_tenx_h5(data: str, options: ReadOptions) -> Source:
    """Cells x genes; features other than genes are left out, and gene names made unique."""
    import scanpy

    with format_errors(data, "a 10x .h5 file"):
        with open_probed(data) as file:
            require_safe(file, data)
        adata = scanpy.read_10x_h5(data, gex_only=False)
    check_sparse_matrices(adata, data)  # before any of its columns are taken
    adata, notes = genes_alone(adata, data)
    return source_in_memory(adata, data, options, notes)


TENX_H5 = CellFormat("10x file of cells", (".h5",), read_tenx_h5, is_tenx_h5)
