"""A matrix whose rows are computed when they are read, for data sets that would not fit into memory."""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.matrix.statistics import MatrixStatistics


class OnDemandMatrix(Matrix):
    """n images of g pixels from 0 to 1, made by ``rows`` as float32; small to pickle.

    Attributes:
        image_shape: (height, width) of an image, whose product is g.
    """

    on_demand = True
    note = "The images are made as they are read: what is written holds their factors and the results, and no pixels."

    image_shape: tuple[int, int]

    @property
    @abstractmethod
    def n_images(self) -> int:
        """Number of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_images, self.image_shape[0] * self.image_shape[1]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    @property
    def sparse(self) -> bool:
        return False

    @property
    def statistics(self) -> MatrixStatistics:
        """Bounds that hold for every image: none is looked at."""
        return MatrixStatistics((0.0, 1.0), False, 0, None, 1.0, np.full(self.shape[1], self.n_images))

    def choose(self, genes: np.ndarray) -> "OnDemandMatrix":
        if not np.array_equal(genes, np.arange(self.shape[1])):
            raise NotImplementedError("images that are made as they are read have all their pixels")
        return self

    def prepared(self, prepare: Callable[[Block], Block]) -> "OnDemandMatrix":
        """The images as they are: pixels from 0 to 1 need no preparation."""
        return self
