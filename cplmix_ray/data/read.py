"""From the name that a user gives to what it holds."""

import os

from cplmix_ray.config import Config
from cplmix_ray.config.augment import AugmentConfig
from cplmix_ray.data.cells import read_h5ad, source_from_anndata
from cplmix_ray.data.cortex import is_table, join_metadata, read_csv_cells
from cplmix_ray.data.dsprites import N_IMAGES, read_dsprites
from cplmix_ray.data.factored import in_original_layout, read_original
from cplmix_ray.data.images import read_digits, read_npz
from cplmix_ray.data.metadata import read_metadata
from cplmix_ray.data.source import Source
from cplmix_ray.data.subset import draw_cells, draw_subset
from cplmix_ray.errors import InputError


def read_source(
    data: str,
    layer: str | None = None,
    labels_key: str | None = None,
    subset: int | None = None,
    seed: int = 0,
    metadata: str | None = None,
    state_key: tuple[str, ...] = (),
) -> Source:
    """Read 'digits', 'dsprites', an `.npz`, an `.h5ad` or `.csv` files; ``subset`` cells drawn by the seed, or all.

    Raises:
        InputError: the file is missing, broken, of another kind, or smaller than the subset.
    """
    images = _images(data, layer, labels_key, subset, seed)
    if images is not None:
        if metadata is not None or state_key:
            option = "--state-key" if metadata is None else "--metadata"
            raise InputError(f"{images.name} holds images, for which {option} means nothing; leave it out.")
        return images
    source = _cells(data, layer, labels_key, metadata, state_key)
    return source if subset is None else draw_subset(source, subset, seed)


def _images(data: str, layer: str | None, labels_key: str | None, subset: int | None, seed: int) -> Source | None:
    """Images, or None where the name is that of cells."""
    if data == "dsprites":
        # Drawn before the rest, so that a small subset is there at once.
        numbers = None if subset is None else draw_cells(N_IMAGES, subset, seed, data)
        return _without_layer(read_dsprites(labels_key, numbers), layer)
    if data == "digits":
        source = _plain(read_digits(), layer, labels_key)
    elif data.endswith(".npz") and os.path.exists(data):
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
    data: str, layer: str | None, labels_key: str | None, metadata: str | None, state_key: tuple[str, ...]
) -> Source:
    if is_table(data):
        adata, notes = read_csv_cells(data, metadata)
        return source_from_anndata(adata, layer, labels_key, data, state_key, notes)
    if not os.path.exists(data):
        raise InputError(f"There is no file {data}; check the path given to --data.")
    if not data.endswith((".h5ad", ".h5", ".hdf5")):
        raise InputError(
            f"--data {data} is neither an .h5ad or .csv file of cells nor an .npz file of images nor 'digits' nor "
            f"'dsprites'."
        )
    adata, notes = read_h5ad(data), ()
    if metadata is not None:
        adata, notes = join_metadata(adata, read_metadata(metadata), data, metadata)
    return source_from_anndata(adata, layer, labels_key, data, state_key, notes)


def read_input(config: Config | AugmentConfig) -> Source:
    """Read what the settings of a run, or of an augmenter, name.

    Raises:
        InputError: as ``read_source``.
    """
    given = config.input
    return read_source(
        given.data, given.layer, given.labels_key, given.subset, config.seed, given.metadata, given.state_key
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
