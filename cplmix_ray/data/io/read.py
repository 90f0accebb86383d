"""Reading what the user gives as ``--data``: the built-in formats, and the functions that choose among all."""

from collections.abc import Callable
from dataclasses import replace

from cplmix_ray.config import RunConfig
from cplmix_ray.data.io.cell_format import CellFormat, ReadOptions, find_cell_format, register_cell_format
from cplmix_ray.data.io.csv_cells import read_csv_cells
from cplmix_ray.data.io.csv_tables import SUFFIXES
from cplmix_ray.data.io.dsprites import N_IMAGES, read_dsprites
from cplmix_ray.data.io.factor_images import in_original_layout, read_original
from cplmix_ray.data.io.h5ad import read_h5ad, source_from_anndata, with_values
from cplmix_ray.data.io.h5ad_backed import Backed, open_h5ad, stays_on_disk
from cplmix_ray.data.io.h5ad_gz import H5AD_GZ
from cplmix_ray.data.io.h5mu import H5MU
from cplmix_ray.data.io.images import read_digits, read_npz, require_label_option
from cplmix_ray.data.io.loom import LOOM
from cplmix_ray.data.io.metadata import join_metadata, read_metadata
from cplmix_ray.data.io.tenx_folder import TENX_FOLDER
from cplmix_ray.data.io.tenx_h5 import TENX_H5
from cplmix_ray.data.io.write_h5ad import leave_out_unwritable
from cplmix_ray.data.io.zarr_store import ZARR
from cplmix_ray.data.source import Source
from cplmix_ray.data.splits import draw_cells, draw_subset
from cplmix_ray.data.validation.regular_file import is_file, require_file
from cplmix_ray.utils.errors import InputError

H5AD = (".h5ad", ".h5", ".hdf5")


def read_source(
    data: str,
    layer: str | None = None,
    labels_key: str | None = None,
    subset: int | None = None,
    seed: int = 0,
    metadata: str | None = None,
    state_key: tuple[str, ...] = (),
    backed: Backed = "no",
    show: Callable[[int, int], None] = lambda done, of: None,
) -> Source:
    """Read cells or images of any registered format; ``subset`` cells drawn with the seed, or all.

    Args:
        backed: whether the matrix of an `.h5ad` stays in its file.
        show: called with the numbers of cells done and of all cells, in the first pass over cells that stay on disk.

    Raises:
        InputError: the file is missing, broken, of another kind, or smaller than the subset.
    """
    options = ReadOptions(layer, labels_key, metadata, state_key, backed, subset, seed)
    source = find_cell_format(data).read(data, options)
    if subset is not None and source.n_cells != subset:
        source = draw_subset(source, subset, seed)
    source.matrix.scan(show)
    return source


def preset_for(data: str) -> str:
    """Name of the default preset for a value of ``--data``.

    Raises:
        InputError: it is of no known format.
    """
    return find_cell_format(data).preset(data)


def _read_h5ad(data: str, options: ReadOptions) -> Source:
    require_file(data, "--data")
    table = None if options.metadata is None else read_metadata(options.metadata)
    opened = open_h5ad(data, options.layer) if stays_on_disk(data, options.layer, options.backed) else None
    adata, left_out = read_h5ad(data) if opened is None else (opened.adata, opened.notes)
    matrix = None if opened is None else opened.matrix
    notes = left_out
    try:
        if table is not None:
            names = adata.obs_names
            adata, joined = join_metadata(adata, table, data, str(options.metadata))
            matrix, notes = matrix and matrix.take(names.get_indexer(adata.obs_names)), (*notes, *joined)
        if opened is not None:
            source = with_values(
                adata, matrix, options.labels_key, data, options.state_key, notes, opened.raw_var, opened.others
            )
        else:
            source = source_from_anndata(adata, options.layer, options.labels_key, data, options.state_key, notes)
    except InputError as error:
        raise InputError(" ".join([*left_out, str(error)])) from None  # what is missing may be what was left out
    return replace(source, notes=(*source.notes, *leave_out_unwritable(source.adata, data)))


def _read_csv(data: str, options: ReadOptions) -> Source:
    if options.backed == "yes":
        raise InputError("--backed yes is for .h5ad files; write these cells as one, or leave it out.")
    adata, notes = read_csv_cells(data, options.metadata)
    return source_from_anndata(adata, options.layer, options.labels_key, data, options.state_key, notes)


def _read_npz(data: str, options: ReadOptions) -> Source:
    require_file(data, "--data")
    if in_original_layout(data):
        images = read_original(data, options.labels_key)
    else:
        images = read_npz(data)
        require_label_option(images, options.labels_key)
    options.refuse_for_images(data)
    return images


def _preset_of_npz(data: str) -> str:
    return "dsprites" if is_file(data) and in_original_layout(data) else "mnist"


def _read_digits(data: str, options: ReadOptions) -> Source:
    images = read_digits()
    require_label_option(images, options.labels_key)
    options.refuse_for_images(data)
    return images


def _read_dsprites(data: str, options: ReadOptions) -> Source:
    options.refuse_for_images(data)
    # The subset is drawn before anything is made, so that a small one is there at once.
    subset = options.subset
    numbers_n = None if subset is None else draw_cells(N_IMAGES, subset, options.seed, data)
    return read_dsprites(options.labels_key, numbers_n)


for _format in (
    TENX_H5,
    TENX_FOLDER,
    LOOM,
    H5MU,
    H5AD_GZ,
    ZARR,
    CellFormat("AnnData file of cells", H5AD, _read_h5ad),
    CellFormat("table of cells", SUFFIXES, _read_csv, several=True),
    CellFormat("archive of images", (".npz",), _read_npz, preset=_preset_of_npz),
    CellFormat("digits", (), _read_digits, preset=lambda data: "mnist"),
    CellFormat("dsprites", (), _read_dsprites, preset=lambda data: "dsprites"),
):
    register_cell_format(_format)


def settle_disk(config: RunConfig) -> RunConfig:
    """The settings with --backed auto resolved for an `.h5ad`, so that a resumed run does not decide it again.

    Raises:
        InputError: the file cannot be read.
    """
    given = config.input
    if given.backed != "auto" or not given.data.endswith(H5AD) or not is_file(given.data):
        return config
    settled = "yes" if stays_on_disk(given.data, given.layer, "auto") else "no"
    return config.model_copy(update={"input": given.model_copy(update={"backed": settled})})


def read_input(config: RunConfig, show: Callable[[int, int], None] = lambda done, of: None) -> Source:
    """Read what the settings name.

    Args:
        show: called with the numbers of cells done and of all cells, in the first pass over cells that stay on disk.

    Raises:
        InputError: as ``read_source``.
    """
    given = config.input
    subset, seed, metadata = given.subset, config.seed, given.metadata
    return read_source(
        given.data, given.layer, given.labels_key, subset, seed, metadata, given.state_key, given.backed, show
    )
