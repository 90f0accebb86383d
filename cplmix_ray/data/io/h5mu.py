"""`.h5mu` files of several modalities, of which the one with gene expression is read."""

from pathlib import Path

import pandas as pd
from anndata.io import read_elem

from cplmix_ray.data.io.cell_format import CellFormat, ReadOptions
from cplmix_ray.data.io.cells_in_memory import format_errors, genes_alone, source_in_memory
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.hdf5_safety import require_safe
from cplmix_ray.data.validation.regular_file import require_file
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrices
from cplmix_ray.data.validation.subprocess_probe import open_probed
from cplmix_ray.utils.errors import InputError

_EXPRESSION = ("rna", "gex", "RNA", "GEX")
"""What modalities of gene expression are called."""


def read_h5mu(data: str, options: ReadOptions) -> Source:
    """The modality with gene expression, and the columns of obs that all modalities share."""
    require_file(data, "--data")
    with format_errors(data, "an .h5mu file"), open_probed(data) as file:
        there = list(file["mod"])
        found = there if len(there) == 1 else [name for name in _EXPRESSION if name in there]
        if not found:
            line = f'mudata.read_h5mu("{data}")["{there[0]}"].write_h5ad("{Path(data).stem}.h5ad")'
            raise InputError(
                f"{data} holds the modalities {', '.join(there)}, none of which is called rna; write the one with the "
                f"genes as a file: {line}"
            )
        require_safe(file, data, (f"mod/{found[0]}", "obs"))
        adata = read_elem(file[f"mod/{found[0]}"])
        shared = read_elem(file["obs"]) if "obs" in file else pd.DataFrame(index=adata.obs_names)
    check_sparse_matrices(adata, data)
    columns = [name for name in shared if ":" not in name and name not in adata.obs]
    if shared.index.is_unique:
        adata.obs = adata.obs.join(shared[columns])
    others = [name for name in there if name != found[0]]
    said = (f"{data}: the modality {found[0]} is read, and {', '.join(others)} left out.",) if others else ()
    adata, notes = genes_alone(adata, data)
    return source_in_memory(adata, data, options, (*said, *notes))


H5MU = CellFormat("file of several modalities", (".h5mu",), read_h5mu)
