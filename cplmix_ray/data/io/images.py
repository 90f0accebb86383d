"""Images: scikit-learn's bundled digits, and `.npz` archives."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from cplmix_ray.data.io.npz_archive import array_names, open_archive, read_array
from cplmix_ray.data.matrix.block import native_numbers
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError

_KEYS = ("x", "x_train", "x_test", "y", "y_train", "y_test")


def read_digits() -> Source:
    """The 1,797 handwritten 8 x 8 digits inside scikit-learn: real data, no download."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _as_source(bunch.images.astype(np.uint8), bunch.target, None, "digits")


def read_npz(path: str | Path) -> Source:
    """Images from ``x_train`` (and ``x_test``, which is then held out) or ``x``; labels from ``y...`` likewise.

    Arrays are (n, height, width) or (n, pixels of a square image). Pickled objects are refused.

    Raises:
        InputError: the file is no archive of numbers, or the arrays do not fit together.
    """
    with open_archive(path, "an .npz archive of plain numbers") as archive:
        arrays = {key: read_array(archive, key) for key in _KEYS if key in array_names(archive)}
    parts = [key for key in ("x", "x_train", "x_test") if key in arrays]
    if not parts:
        raise InputError(f"{path} holds no array named x, x_train or x_test; save the images under one of them.")
    images = [arrays[key] for key in parts]
    if len({array.shape[1:] for array in images}) > 1 or any(array.ndim not in (2, 3) for array in images):
        raise InputError(f"The images in {path} must all be (n, height, width) or (n, pixels), of one size.")
    labels = [arrays.get(key.replace("x", "y", 1)) for key in parts]
    for key, x, y in zip(parts, images, labels, strict=True):
        if y is not None and y.shape != (len(x),):
            raise InputError(f"The labels that go with {key} in {path} have shape {y.shape}, not ({len(x)},).")
        if y is not None and y.dtype.kind not in "uifbSU":
            raise InputError(f"The labels that go with {key} in {path} are {y.dtype}; give numbers or words.")
        if x.dtype.kind not in "uifb":
            raise InputError(f"The images in {path} are not numbers but {x.dtype}.")
    held_out = np.concatenate([np.full(len(x), key == "x_test") for key, x in zip(parts, images, strict=True)])
    known = [_words(y) for y in labels if y is not None]
    return _as_source(
        np.concatenate([x.astype(np.uint8) if x.dtype == bool else native_numbers(x) for x in images]),
        np.concatenate(known) if len(known) == len(labels) else None,
        held_out if held_out.any() and not held_out.all() else None,
        str(path),
    )


def require_label_option(images: Source, labels_key: str | None) -> None:
    """Refuse another name for the labels of images than 'label'.

    Raises:
        InputError: another one is given, or there are no labels.
    """
    if labels_key not in (None, "label") or (labels_key == "label" and images.labels_n is None):
        raise InputError(f"{images.name} holds images; labels come from its y arrays, not from '{labels_key}'.")


def _as_source(images: np.ndarray, labels_n: np.ndarray | None, held_out_n: np.ndarray | None, name: str) -> Source:
    if images.size == 0:
        raise InputError(f"{name} is empty: its images have shape {images.shape}.")
    side = int(np.sqrt(images.shape[-1]))
    if images.ndim == 2 and side * side != images.shape[1]:
        raise InputError(f"The images in {name} are flat and not square; save them as (n, height, width).")
    shape = images.shape[1:] if images.ndim == 3 else (side, side)
    values = images.reshape(len(images), -1)
    names = None if labels_n is None else _words(labels_n)
    obs = pd.DataFrame(index=[str(i) for i in range(len(values))])
    if names is not None:
        obs["label"] = pd.Categorical(names)
    var = pd.DataFrame(index=[f"pixel_{i}" for i in range(values.shape[1])])
    adata = anndata.AnnData(X=values, obs=obs, var=var)
    return Source(adata, InMemoryMatrix(values), name, (int(shape[0]), int(shape[1])), names, held_out_n)


def _words(labels_n: np.ndarray) -> np.ndarray:
    """Labels as text, "" where a number is NaN."""
    if labels_n.dtype.kind == "S":
        return np.char.decode(labels_n, "utf-8", "replace")
    words_n = labels_n.astype(str)
    return np.where(np.isnan(labels_n), "", words_n) if labels_n.dtype.kind == "f" else words_n
