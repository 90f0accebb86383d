"""From the name that a user gives to what it holds."""

import os

from cplmix_ray.config import Config
from cplmix_ray.data.cells import read_h5ad
from cplmix_ray.data.dsprites import N_IMAGES, read_dsprites
from cplmix_ray.data.factored import in_original_layout, read_original
from cplmix_ray.data.images import read_digits, read_npz
from cplmix_ray.data.source import Source
from cplmix_ray.data.subset import draw_cells, draw_subset
from cplmix_ray.errors import InputError


def read_source(
    data: str, layer: str | None = None, labels_key: str | None = None, subset: int | None = None, seed: int = 0
) -> Source:
    """Read 'digits', 'dsprites', an `.npz` or an `.h5ad`, and of it ``subset`` cells drawn by the seed, or all.

    Raises:
        InputError: the file is missing, broken, of another kind, or smaller than the subset.
    """
    if data == "dsprites":
        # Drawn before the rest, so that a small subset is there at once.
        numbers = None if subset is None else draw_cells(N_IMAGES, subset, seed, data)
        return _without_layer(read_dsprites(labels_key, numbers), layer)
    source = _read(data, layer, labels_key)
    return source if subset is None else draw_subset(source, subset, seed)


def read_input(config: Config) -> Source:
    """Read what the settings of a run name.

    Raises:
        InputError: as ``read_source``.
    """
    given = config.input
    return read_source(given.data, given.layer, given.labels_key, given.subset, config.seed)


def _read(data: str, layer: str | None, labels_key: str | None) -> Source:
    if data == "digits":
        return _plain(read_digits(), layer, labels_key)
    if not os.path.exists(data):
        raise InputError(f"There is no file {data}; check the path given to --data.")
    if data.endswith(".npz") and in_original_layout(data):
        return _without_layer(read_original(data, labels_key), layer)
    if data.endswith(".npz"):
        return _plain(read_npz(data), layer, labels_key)
    if data.endswith((".h5ad", ".h5", ".hdf5")):
        return read_h5ad(data, layer, labels_key)
    raise InputError(
        f"--data {data} is neither an .h5ad file of cells nor an .npz file of images nor 'digits' nor 'dsprites'."
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
