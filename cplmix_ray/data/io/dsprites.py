"""dSprites (Matthey et al. 2017), drawn on demand from its recipe: no download, no 3 GB in memory.

Published by the authors: the factors, their values and their order; that LOVE drew vector shapes on a canvas of
side 1 without anti-aliasing; that no sprite leaves the image. Their animation (dsprites.gif, 320 of the images) gives
the rest: a pixel is set where its centre is inside the outline; the sprite's origin moves from pixel 16 to pixel 48
along either axis, and it turns anticlockwise. At scale 1 the square has a side of 0.3 of the canvas, the ellipse
semi-axes of 0.199 and 0.113, and the heart is the curve (16 sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t), 0.3
wide and 0.3 high. Not known: how many corners LOVE gave to the curves, and how it rounded. Against the 77,010 pixels
that are set in the animation, 46 are wrong, each on an outline.
"""

from functools import cache

import numpy as np

from cplmix_ray.data.io.factor_images import FACTORS, Made, factored_source
from cplmix_ray.data.matrix.on_demand import OnDemandMatrix
from cplmix_ray.data.source import Source

SIDE = 64
SIZES = (1, 3, 6, 40, 32, 32)
"""Values of color, shape, scale, orientation, posX, posY; the last varies fastest. Orientation 39 is orientation 0."""
N_IMAGES = 737_280

_HALF_SQUARE = 0.15 * SIDE
_SEMI_AXES = (12.75, 7.22)
_HEART = (0.15 * SIDE, 10.6, -1.44)
"""Half its width, the length of 16 units of its height, and how far below the sprite's origin its own lies."""
_CORNERS, _TABLE = 120, 8192
"""Corners of the polygon that stands for the heart's curve, and columns in the table of its heights."""
_BLOCK = 256
"""Images that are drawn at a time, so that what is between the steps stays small."""
_REACH, _CROP = 14, 30
"""No outline is farther from its origin than the first, so that a sprite fits into a crop of the second."""


class DSprites(OnDemandMatrix):
    """All 737,280 images, or those numbered ``index_n``."""

    def __init__(self, index_n: np.ndarray | None = None):
        self.index_n = None if index_n is None else np.asarray(index_n, np.int32)
        self.image_shape = (SIDE, SIDE)

    @property
    def n_images(self) -> int:
        return N_IMAGES if self.index_n is None else len(self.index_n)

    def rows(self, idx_n: np.ndarray) -> np.ndarray:
        images = np.zeros((len(idx_n), SIDE, SIDE), np.float32)
        for start in range(0, len(idx_n), _BLOCK):
            block = slice(start, start + _BLOCK)
            draw(images[block], self._classes(idx_n[block]))
        return images.reshape(-1, SIDE * SIDE)

    def take(self, idx_n: np.ndarray) -> "DSprites":
        return DSprites(self._numbers(idx_n))

    def _numbers(self, idx_n: np.ndarray) -> np.ndarray:
        idx_n = np.arange(self.shape[0])[idx_n] if np.min(idx_n, initial=0) < 0 else np.asarray(idx_n)
        return idx_n if self.index_n is None else self.index_n[idx_n]

    def _classes(self, idx_n: np.ndarray) -> np.ndarray:
        return np.stack(np.unravel_index(self._numbers(idx_n), SIZES), axis=-1)


def read_dsprites(labels_key: str | None = None, index_n: np.ndarray | None = None) -> Source:
    """All images, or those numbered ``index_n``, with their factors."""
    numbers_n = np.arange(N_IMAGES) if index_n is None else index_n
    classes_nf = np.stack(np.unravel_index(numbers_n, SIZES), axis=-1).astype(np.int8)
    values_nf = np.stack([possible_values(i)[classes_nf[:, i]] for i in range(len(FACTORS))], axis=-1)
    return factored_source(DSprites(index_n), Made(classes_nf, values_nf, numbers_n), "dsprites", labels_key)


def possible_values(factor: int) -> np.ndarray:
    """The values of a factor, as the original has them."""
    low, high = ((1, 1), (1, 3), (0.5, 1), (0, 2 * np.pi), (0, 1), (0, 1))[factor]
    return np.linspace(low, high, SIZES[factor])


def draw(images: np.ndarray, classes_nf: np.ndarray) -> None:
    """Set the pixels of the sprites in empty images."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (_CROP, _CROP), axis=(1, 2), writeable=True)
    for shape, inside in enumerate((_in_square, _in_ellipse, _in_heart)):
        of_n = np.flatnonzero(classes_nf[:, 1] == shape)
        scale_n, angle_n, x_n, y_n = (possible_values(i)[classes_nf[of_n, i]] for i in (2, 3, 4, 5))
        # Only a crop around each sprite is drawn; its corner is a whole pixel, its origin usually not.
        centre_n2 = SIDE / 4 + SIDE / 2 * np.stack([x_n, y_n], axis=-1)
        corner_n2 = np.floor(centre_n2).astype(np.int64) - _REACH
        away_n2c = (corner_n2 - centre_n2)[:, :, None] + (np.arange(_CROP) + 0.5)
        across, down = np.moveaxis((away_n2c / scale_n[:, None, None]).astype(np.float32), 1, 0)
        cos_n, sin_n = (f(angle_n).astype(np.float32)[:, None] for f in (np.cos, np.sin))
        u_nyx = (cos_n * across)[:, None, :] - (sin_n * down)[:, :, None]
        v_nyx = (sin_n * across)[:, None, :] + (cos_n * down)[:, :, None]
        windows[of_n, corner_n2[:, 1], corner_n2[:, 0]] = inside(u_nyx, v_nyx)


def _in_square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(u), np.abs(v)) < _HALF_SQUARE


def _in_ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = _SEMI_AXES
    return np.square(u / np.float32(a)) + np.square(v / np.float32(b)) < 1


def _in_heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Above a column of the heart's half-width lies one stretch of it, between two branches of the curve."""
    top, bottom = _heart_table()
    column = np.minimum(np.abs(u) * np.float32(_TABLE / _HEART[0]), _TABLE).astype(np.int32)
    return (v > top[column]) & (v < bottom[column])


@cache
def _heart_table() -> tuple[np.ndarray, np.ndarray]:
    """Heights (downwards) of the upper and the lower branch in the middle of each column, and nothing beyond."""
    half, height, origin = _HEART
    branches, middle = [], (np.arange(_TABLE) + 0.5) * (half / _TABLE)
    quarter = np.arange(_CORNERS // 4 + 1) * (2 * np.pi / _CORNERS)
    for t, beyond in ((quarter, np.inf), (np.pi - quarter, -np.inf)):
        curve = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        heights = np.interp(middle, half * np.sin(t) ** 3, origin - height / 16 * curve)
        branches.append(np.append(heights, beyond).astype(np.float32))
    return branches[0], branches[1]
