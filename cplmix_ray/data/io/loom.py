"""`.loom` files: HDF5 with genes x cells in `matrix`, and annotations in `row_attrs` and `col_attrs`."""

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.data.io.cell_format import CellFormat, ReadOptions
from cplmix_ray.data.io.cells_in_memory import format_errors, genes_alone, source_in_memory
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.hdf5_safety import require_safe
from cplmix_ray.data.validation.regular_file import require_file
from cplmix_ray.data.validation.subprocess_probe import open_probed
from cplmix_ray.utils.errors import InputError

_CELLS = ("CellID", "obs_names", "cell_names", "cell_id", "barcode")
_GENES = ("Gene", "var_names", "gene_names", "gene", "Accession")
"""Attributes that name the cells and genes, by the programs that write `.loom`."""


def read_loom(data: str, options: ReadOptions) -> Source:
    """Cells x genes, sparse, with the layers; gene names are made unique."""
    require_file(data, "--data")
    with format_errors(data, "a .loom file"), open_probed(data) as file:
        require_safe(file, data)
        adata = anndata.AnnData(
            _cells_by_genes(file["matrix"]),
            obs=_attributes(file["col_attrs"], _CELLS, data),
            var=_attributes(file["row_attrs"], _GENES, data),
            layers={name: _cells_by_genes(layer) for name, layer in file.get("layers", {}).items()},
        )
    adata, notes = genes_alone(adata, data)
    return source_in_memory(adata, data, options, notes)


def _cells_by_genes(values: h5py.Dataset, rows: int = 1024) -> sp.csr_matrix:
    """Read the dense genes x cells matrix in blocks and return it as a sparse cells x genes matrix."""
    pieces = [sp.csr_matrix(values[first : first + rows]) for first in range(0, len(values), rows)]
    return sp.vstack(pieces, format="csr").T.tocsr()


def _attributes(group: h5py.Group, names: tuple[str, ...], data: str) -> pd.DataFrame:
    """Read the one-dimensional attributes of cells or genes as a table, indexed by the first existing name."""
    index = next((name for name in names if name in group), None)
    if index is None:
        raise InputError(f"{data} has none of {', '.join(names)} in {group.name}, which name the cells or genes.")
    columns = {name: _values(node) for name, node in group.items() if node.ndim == 1}
    return pd.DataFrame(columns, index=pd.Index(columns.pop(index).astype(str)))


def _values(node: h5py.Dataset) -> np.ndarray:
    return node.asstr(errors="replace")[()] if node.dtype.kind in "OS" else node[()]


LOOM = CellFormat("loom file", (".loom",), read_loom)
