"""Functions shared by the readers of formats other than `.h5ad`, which read all cells into memory."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import anndata
import numpy as np

from cplmix_ray.data.io.cell_format import ReadOptions
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.metadata import join_metadata, read_metadata
from cplmix_ray.data.io.write_h5ad import leave_out_unwritable
from cplmix_ray.data.source import Source
from cplmix_ray.data.validation.hdf5_errors import ignore_warnings
from cplmix_ray.data.validation.sparse_checks import check_sparse_matrices
from cplmix_ray.utils.errors import InputError

GENES = "Gene Expression"
"""Feature type of genes in the files of Cell Ranger; others are proteins, guides, peaks."""


@contextlib.contextmanager
def format_errors(data: str, what: str) -> Iterator[None]:
    """Turn the many exceptions of libraries for broken files into one, and ignore their warnings.

    Args:
        what: the format, as "a 10x .h5 file".

    Raises:
        InputError: in place of all of them.
    """
    try:
        with ignore_warnings():
            yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{data} cannot be read as {what} ({reason}); take another copy, or convert it to .h5ad with the program "
            f"that wrote it."
        ) from None


def source_in_memory(adata: anndata.AnnData, data: str, options: ReadOptions, notes: tuple[str, ...] = ()) -> Source:
    """The cells as the options want them, all checked.

    Raises:
        InputError: the object or an option cannot be used.
    """
    if options.backed == "yes":
        raise InputError("--backed yes is for .h5ad files; write these cells as one, or leave it out.")
    check_sparse_matrices(adata, data)
    if options.metadata is not None:
        adata, more = join_metadata(adata, read_metadata(options.metadata), data, options.metadata)
        notes += more
    source = source_from_anndata(adata, options.layer, options.labels_key, data, options.state_key, notes)
    return replace(source, notes=(*source.notes, *leave_out_unwritable(source.adata, data)))


def genes_alone(adata: anndata.AnnData, data: str) -> tuple[anndata.AnnData, tuple[str, ...]]:
    """The cells with the features that are genes, each under a name of its own, and what the user should know.

    Raises:
        InputError: no feature is a gene.
    """
    notes: tuple[str, ...] = ()
    types = adata.var.get("feature_types")
    if types is not None and not (are_genes := np.asarray(types == GENES)).all():
        if not are_genes.any():
            raise InputError(f"{data} holds no genes, only {', '.join(map(str, types.unique()[:5]))}.")
        others = ", ".join(f"{n} {kind}" for kind, n in types[~are_genes].value_counts().items())
        with ignore_warnings():  # of names that are not unique yet
            adata = adata[:, are_genes].copy()
        notes = (f"{data} holds {others} besides {adata.n_vars} genes: left out.",)
    if (n_twice := int(adata.var_names.duplicated().sum())) > 0:
        adata.var_names_make_unique()
        notes += (f"{n_twice} genes of {data} have the name of another one, to which -1, -2, ... was appended.",)
    return adata, notes
