"""Folders of a sparse matrix as text, as Cell Ranger and STARsolo write them: `matrix.mtx`, `barcodes.tsv` and
`features.tsv` (or `genes.tsv`), each perhaps compressed, and perhaps with a prefix before its name."""

import re
from pathlib import Path

import anndata
import pandas as pd
import scipy.io
import scipy.sparse as sp

from cplmix_ray.data.io.cell_format import CellFormat, ReadOptions
from cplmix_ray.data.io.cells_in_memory import format_errors, genes_alone, source_in_memory
from cplmix_ray.data.io.text_file import open_text
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.hdf5_errors import ignore_warnings
from cplmix_ray.data.validation.regular_file import is_file, require_file
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.free_memory import free_memory

_MTX = (".mtx", ".mtx.gz")
_ENTRY_BYTES = 20
"""Bytes that an entry takes in memory while it is read: its row, its column, its value."""
_SHORTEST, _MAX_RATIO = 4, 1032
"""Bytes of text that an entry takes at least, as in "1 1\\n", and the largest ratio of gzip."""


def is_tenx_folder(data: str) -> bool:
    """Whether this is an `.mtx` file, or a folder with one."""
    return data.endswith(_MTX) or (Path(data).is_dir() and any(Path(data).glob("*.mtx*")))


def read_tenx_folder(data: str, options: ReadOptions) -> Source:
    """Cells x genes; features other than genes are left out, and gene names made unique."""
    matrix = _matrix_file(data)
    require_file(matrix, "--data")
    with format_errors(str(matrix), "a Matrix Market file"):
        barcodes = _beside(matrix, ("barcodes.tsv",))[0].to_list()
        features = _beside(matrix, ("features.tsv", "genes.tsv"))
        n_rows, n_columns, n_entries = scipy.io.mminfo(matrix)[:3]
        _require_plausible(matrix, n_entries)
        if (n_rows, n_columns) not in ((len(features), len(barcodes)), (len(barcodes), len(features))):
            raise InputError(
                f"{matrix} is {n_rows} x {n_columns}, and the files beside it name {len(features)} genes and "
                f"{len(barcodes)} cells; take the three files of the same experiment."
            )
        values = sp.csr_matrix(scipy.io.mmread(matrix), dtype="float32")
    values = values if (n_rows, n_columns) == (len(barcodes), len(features)) else values.T.tocsr()
    var = pd.DataFrame(index=pd.Index(features[min(1, len(features.columns) - 1)].to_list()))
    for at, column in {0: "gene_ids", 2: "feature_types"}.items():
        if at in features and len(features.columns) > 1:
            var[column] = features[at].to_numpy()
    with ignore_warnings():
        adata = anndata.AnnData(values, obs=pd.DataFrame(index=barcodes), var=var)
    adata, notes = genes_alone(adata, data)
    return source_in_memory(adata, data, options, notes)


def _matrix_file(data: str) -> Path:
    """The `.mtx` file itself, or the one in the folder."""
    if data.endswith(_MTX) and not Path(data).is_dir():
        return Path(data)
    found = sorted(path for path in Path(data).iterdir() if path.name.endswith(_MTX))
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:5])
        raise InputError(f"{data} holds several matrices ({names}); give the path of one of them to --data.")
    return found[0]


def _beside(matrix: Path, names: tuple[str, ...]) -> pd.DataFrame:
    """Read the table of barcodes or features in the folder of the matrix; its file has the same prefix."""
    prefix = re.sub(r"(matrix)?\.mtx(\.gz)?$", "", matrix.name)
    for path in (matrix.with_name(prefix + name + end) for name in names for end in ("", ".gz")):
        if is_file(path):
            with format_errors(str(path), "a table"), open_text(path, whole=True) as file:
                return pd.read_csv(file, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=3)
    raise InputError(
        f"There is no file {matrix.with_name(prefix + names[0])} (or .gz), which names the "
        f"{'cells' if 'barcodes.tsv' in names else 'genes'} of {matrix.name}; put it beside the matrix."
    )


def _require_plausible(matrix: Path, n_entries: int) -> None:
    """Refuse a matrix that declares more entries than its file can hold, or than fit into memory."""
    size = matrix.stat().st_size * (_MAX_RATIO if matrix.name.endswith(".gz") else 1)
    if n_entries * _SHORTEST > size:
        raise InputError(f"{matrix} declares {n_entries:,} values and holds fewer: it is cut short; take another copy.")
    if n_entries * _ENTRY_BYTES > free_memory():
        raise InputError(
            f"{matrix} takes {n_entries * _ENTRY_BYTES / 2**30:,.1f} GB when it is read, which is more than the free "
            f"memory; convert it to .h5ad on a larger machine, which can stay on disk."
        )


TENX_FOLDER = CellFormat("10x folder or its matrix.mtx", _MTX, read_tenx_folder, is_tenx_folder)
