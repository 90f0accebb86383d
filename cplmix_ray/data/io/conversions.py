"""Formats that are not read, and the lines that convert them to `.h5ad`."""

from pathlib import Path

_SEURAT = (
    'write its counts as a 10x folder, which is read: in R, DropletUtils::write10xCounts("{stem}", '
    'SeuratObject::LayerData({read}, layer = "counts"), version = "3")'
)
_PANDAS = 'convert it in Python: anndata.AnnData(pandas.read_{kind}("{data}", index_col=0)).write_h5ad("{stem}.h5ad")'
_CONVERSIONS = {
    ".rds": _SEURAT.replace("{read}", 'readRDS("{data}")'),
    ".rda": _SEURAT.replace("{read}", 'get(load("{data}"))'),
    ".rdata": _SEURAT.replace("{read}", 'get(load("{data}"))'),
    ".h5seurat": 'convert it in R: SeuratDisk::Convert("{data}", dest = "h5ad")',
    ".cloupe": "give filtered_feature_bc_matrix.h5 of the same Cell Ranger output, which holds its counts",
    ".xlsx": _PANDAS.replace("{kind}", "excel"),
    ".parquet": 'convert it in Python: anndata.AnnData(pandas.read_parquet("{data}")).write_h5ad("{stem}.h5ad")',
    ".pkl": 'convert it in Python, if you trust it: pandas.read_pickle("{data}").write_h5ad("{stem}.h5ad")',
}


def conversion_of(data: str) -> str | None:
    """How to convert a file, None for formats that are not known; ``data`` is not read."""
    line = _CONVERSIONS.get(Path(data).suffix.lower())
    return None if line is None else line.replace("{data}", data).replace("{stem}", Path(data).stem)
