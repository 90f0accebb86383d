"""Images with known factors: what dSprites and archives in its layout have in common."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anndata
import numpy as np
import pandas as pd

from cplmix_ray.data.io.npz_archive import Header, array_names, open_archive, read_array, read_array_with
from cplmix_ray.data.matrix.on_demand import OnDemandMatrix
from cplmix_ray.data.source import Factors, Source
from cplmix_ray.utils.errors import InputError

FACTORS = ("color", "shape", "scale", "orientation", "posX", "posY")
SHAPES = ("square", "ellipse", "heart")

_ARRAYS = ("imgs", "latents_classes", "latents_values")
_BLOCK = 4096
"""Images that are unpacked at a time."""


class PackedImages(OnDemandMatrix):
    """Images of 0 and 1, one bit a pixel: an eighth of their bytes in memory."""

    def __init__(self, bits_nb: np.ndarray, image_shape: tuple[int, int]):
        self.bits_nb, self.image_shape = bits_nb, image_shape

    @property
    def n_images(self) -> int:
        return len(self.bits_nb)

    def rows(self, idx_n: np.ndarray) -> np.ndarray:
        return np.unpackbits(self.bits_nb[idx_n], axis=1, count=self.shape[1]).astype(np.float32)

    def take(self, idx_n: np.ndarray) -> "PackedImages":
        return PackedImages(self.bits_nb[idx_n], self.image_shape)


@dataclass(frozen=True)
class Made:
    """From what each image was made: classes and values of all factors, shape (n, 6), and its number."""

    classes_nf: np.ndarray
    values_nf: np.ndarray
    numbers_n: np.ndarray


def factored_source(images: OnDemandMatrix, made: Made, name: str, labels_key: str | None = None) -> Source:
    """Images with their factors as columns of obs; the shape is the label unless ``labels_key`` names another factor.

    Raises:
        InputError: there is no such factor.
    """
    key = "shape" if labels_key in (None, "label") else labels_key
    if key not in FACTORS:
        raise InputError(f"{name} has no factor '{labels_key}' for --labels-key; it has {', '.join(FACTORS)}.")
    classes_nf = made.classes_nf
    obs = pd.DataFrame(index=pd.Index(made.numbers_n).astype(str))
    for i, factor in enumerate(FACTORS):
        obs[factor] = made.values_nf[:, i].astype(np.float32)
    obs["shape"] = pd.Categorical.from_codes(classes_nf[:, 1], categories=list(SHAPES))
    labels_n = np.asarray(SHAPES)[classes_nf[:, 1]] if key == "shape" else classes_nf[:, FACTORS.index(key)].astype(str)
    # A factor of one value is none.
    varying = [i for i in range(len(FACTORS)) if classes_nf[:, i].min() < classes_nf[:, i].max()]
    factors = Factors(tuple(FACTORS[i] for i in varying), classes_nf[:, varying])
    adata = anndata.AnnData(obs=obs, var=pd.DataFrame(index=[f"pixel_{i}" for i in range(images.shape[1])]))
    return Source(adata, images, name, images.image_shape, labels_n, factors=factors)


def in_original_layout(path: str | Path) -> bool:
    """Whether an archive has the arrays of the published dSprites rather than x and y."""
    with open_archive(path, "an .npz archive") as archive:
        return any(key in array_names(archive) for key in _ARRAYS)


def read_original(path: str | Path, labels_key: str | None = None) -> Source:
    """``imgs``, ``latents_classes`` and ``latents_values`` of the published archive; images of one bit a pixel.

    ``metadata``, a pickled object, is never read.

    Raises:
        InputError: an array is missing, broken, or of the wrong shape.
    """
    with open_archive(path, "an .npz archive in the layout of dSprites") as archive:
        missing = [key for key in _ARRAYS if key not in array_names(archive)]
        if missing:
            raise InputError(f"{path} has the layout of dSprites and lacks {' and '.join(missing)}.")
        latents = [read_array(archive, key) for key in _ARRAYS[1:]]
        images = read_array_with(archive, "imgs", lambda file, header: _pack(file, header, path))
    expected = (images.shape[0], len(FACTORS))
    for key, array in zip(_ARRAYS[1:], latents, strict=True):
        if array.shape != expected or array.dtype.kind not in "uif":
            raise InputError(f"{key} in {path} must be numbers of shape {expected}, and has shape {array.shape}.")
    classes_nf = latents[0]
    if (
        classes_nf.dtype.kind == "f"
        or classes_nf.min() < 0
        or classes_nf[:, 1].max() >= len(SHAPES)
        or classes_nf.max() > 2**15 - 1
    ):
        raise InputError(f"latents_classes in {path} must count from 0, shapes to {len(SHAPES) - 1}.")
    return factored_source(
        images, Made(classes_nf.astype(np.int16), latents[1], np.arange(len(classes_nf))), str(path), labels_key
    )


def _pack(file: IO[bytes], header: Header, path: str | Path) -> PackedImages:
    """Read an array block by block, so that it is in memory only as bits."""
    shape, dtype = header.shape, header.dtype
    if len(shape) != 3 or 0 in shape or dtype.kind not in "ub" or dtype.itemsize != 1 or header.fortran:
        raise InputError(f"imgs in {path} must be bytes of shape (n, height, width), and is {dtype} of {shape}.")
    n, pixels = shape[0], shape[1] * shape[2]
    bits_nb = np.empty((n, (pixels + 7) // 8), np.uint8)
    for start in range(0, n, _BLOCK):
        size = min(_BLOCK, n - start)
        block = file.read(size * pixels)
        if len(block) < size * pixels:
            raise ValueError("imgs ends early")
        images = np.frombuffer(block, np.uint8).reshape(size, pixels)
        if images.max() > 1:
            raise InputError(f"imgs in {path} must hold 0 and 1 alone, and has a pixel of {images.max()}.")
        bits_nb[start : start + size] = np.packbits(images, axis=1)
    return PackedImages(bits_nb, (shape[1], shape[2]))
