"""Rows that are made when they are read, for data sets that would not fit into memory."""

from abc import ABC, abstractmethod

import numpy as np

from cplmix_ray.data.matrix.on_disk import RowsOnDisk
from cplmix_ray.data.source import Values

NO_PIXELS = "The images are made as they are read: what is written holds their factors and the results, and no pixels."


class LazyRows(ABC):
    """n images of g pixels, made on demand: small, picklable, and read by ``rows`` alone.

    Attributes:
        shape: (n, g).
        image_shape: (height, width) of an image, whose product is g.
    """

    shape: tuple[int, int]
    image_shape: tuple[int, int]

    @abstractmethod
    def rows(self, idx_n: np.ndarray) -> np.ndarray:
        """Images ``idx_n``, float32 from 0 to 1, shape (len(idx_n), g)."""

    @abstractmethod
    def take(self, idx_n: np.ndarray) -> "LazyRows":
        """The data set of the images ``idx_n`` alone."""


def limits(values_ng: Values) -> tuple[float, float]:
    """Smallest and largest value."""
    if isinstance(values_ng, LazyRows):
        return 0.0, 1.0
    if isinstance(values_ng, RowsOnDisk):
        return values_ng.limits
    return float(values_ng.min()), float(values_ng.max())
