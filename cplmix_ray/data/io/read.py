"""From the name that a user gives to what it holds."""

import os
from collections.abc import Callable

from cplmix_ray.config import Config
from cplmix_ray.config.augment import AugmentConfig
from cplmix_ray.data.io.csv_cells import is_table, join_metadata, read_csv_cells
from cplmix_ray.data.io.dsprites import N_IMAGES, read_dsprites
from cplmix_ray.data.io.factor_images import in_original_layout, read_original
from cplmix_ray.data.io.h5ad import open_h5ad, read_h5ad, source_from_anndata, with_values
from cplmix_ray.data.io.h5ad_backed import Backed, DiskUse, stays_on_disk
from cplmix_ray.data.io.images import read_digits, read_npz
from cplmix_ray.data.io.metadata import read_metadata
from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.source import Source
from cplmix_ray.data.subset import draw_cells, draw_subset
from cplmix_ray.data.validation.regular_file import is_file, require_file
from cplmix_ray.data.validation.sparse_checks import require_writable_again
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
    disk: DiskUse | None = None,
) -> Source:
    """Read 'digits', 'dsprites', an `.npz`, an `.h5ad` or `.csv` files; ``subset`` cells drawn by the seed, or all.

    Args:
        disk: whether the matrix of an `.h5ad` stays in its file; by default it does not.

    Raises:
        InputError: the file is missing, broken, of another kind, or smaller than the subset.
    """
    images = _images(data, layer, labels_key, subset, seed)
    if images is not None:
        if metadata is not None or state_key:
            option = "--state-key" if metadata is None else "--metadata"
            raise InputError(f"{images.name} holds images, for which {option} means nothing; leave it out.")
        return images
    disk = disk or DiskUse("no")
    source = _cells(data, layer, labels_key, metadata, state_key, disk.backed)
    source = source if subset is None else draw_subset(source, subset, seed)
    if isinstance(source.values_ng, RowsOnDisk):
        source.values_ng.scan(disk.show)
    return source


def _images(data: str, layer: str | None, labels_key: str | None, subset: int | None, seed: int) -> Source | None:
    """Images, or None where the name is that of cells."""
    if data == "dsprites":
        # Drawn before the rest, so that a small subset is there at once.
        numbers = None if subset is None else draw_cells(N_IMAGES, subset, seed, data)
        return _without_layer(read_dsprites(labels_key, numbers), layer)
    if data == "digits":
        source = _plain(read_digits(), layer, labels_key)
    elif data.endswith(".npz") and is_file(data):
        original = in_original_layout(data)
        source = (
            _without_layer(read_original(data, labels_key), layer)
            if original
            else _plain(read_npz(data), layer, labels_key)
        )
    else:
        return None
    return source if subset is None else draw_subset(source, subset, seed)


def _cells(
    data: str,
    layer: str | None,
    labels_key: str | None,
    metadata: str | None,
    state_key: tuple[str, ...],
    backed: Backed,
) -> Source:
    if is_table(data):
        if backed == "yes":
            raise InputError("--backed yes is for .h5ad files; write these cells as one, or leave it out.")
        adata, notes = read_csv_cells(data, metadata)
        return source_from_anndata(adata, layer, labels_key, data, state_key, notes)
    if os.path.exists(data) and not data.endswith((*H5AD, ".npz")):
        raise InputError(
            f"--data {data} is neither an .h5ad or .csv file of cells nor an .npz file of images nor 'digits' nor "
            f"'dsprites'."
        )
    require_file(data, "--data")
    if stays_on_disk(data, layer, backed):
        source = _on_disk(data, layer, labels_key, metadata, state_key)
    else:
        adata, notes = read_h5ad(data), ()
        if metadata is not None:
            adata, notes = join_metadata(adata, read_metadata(metadata), data, metadata)
        source = source_from_anndata(adata, layer, labels_key, data, state_key, notes)
    require_writable_again(source.adata, data)
    return source


def _on_disk(
    data: str, layer: str | None, labels_key: str | None, metadata: str | None, state_key: tuple[str, ...]
) -> Source:
    adata, values = open_h5ad(data, layer)
    notes: tuple[str, ...] = ()
    if metadata is not None:
        names = adata.obs_names
        adata, notes = join_metadata(adata, read_metadata(metadata), data, metadata)
        values = values and values.take(names.get_indexer(adata.obs_names))
    return with_values(adata, values, labels_key, data, state_key, notes)


def settle_disk(config: Config) -> Config:
    """The settings with --backed auto resolved for an `.h5ad`: what a run does must not depend on where it goes on.

    Raises:
        InputError: the file cannot be read.
    """
    given = config.input
    if given.backed != "auto" or not given.data.endswith(H5AD) or not is_file(given.data):
        return config
    settled = "yes" if stays_on_disk(given.data, given.layer, "auto") else "no"
    return config.model_copy(update={"input": given.model_copy(update={"backed": settled})})


def read_input(config: Config | AugmentConfig, show: Callable[[int, int], None] = lambda done, of: None) -> Source:
    """Read what the settings of a run, or of an augmenter, name.

    Args:
        show: told how far the first pass over cells is that stay on disk.

    Raises:
        InputError: as ``read_source``.
    """
    given = config.input
    return read_source(
        given.data,
        given.layer,
        given.labels_key,
        given.subset,
        config.seed,
        given.metadata,
        given.state_key,
        DiskUse(given.backed, show),
    )


def _plain(images: Source, layer: str | None, labels_key: str | None) -> Source:
    """The labels of images go by the one name 'label'."""
    if labels_key not in (None, "label") or (labels_key == "label" and images.labels_n is None):
        raise InputError(f"{images.name} holds images; labels come from its y arrays, not from '{labels_key}'.")
    return _without_layer(images, layer)


def _without_layer(images: Source, layer: str | None) -> Source:
    if layer is not None:
        raise InputError(f"{images.name} holds images, which have no layer '{layer}'; leave out --layer.")
    return images
