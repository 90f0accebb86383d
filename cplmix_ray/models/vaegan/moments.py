"""Mean and root mean square distance from it of the training cells."""

from dataclasses import dataclass

import numpy as np

from cplmix_ray.data.matrix.base import Matrix


@dataclass(frozen=True)
class Moments:
    """Mean of the training cells, shape (g,), and their root mean square distance from it (1 if that is zero)."""

    mean_g: np.ndarray
    rms_distance: float


def cell_moments(matrix: Matrix, train_idx: np.ndarray) -> Moments:
    """Moments of the training cells, read in blocks so that sparse data stays sparse."""
    n, g = len(train_idx), matrix.shape[1]
    total_g, squares = np.zeros(g), 0.0
    for at in range(0, n, 4096):
        block = matrix.dense_rows(train_idx[at : at + 4096]).astype(np.float64)
        total_g += block.sum(0)
        squares += float(np.square(block).sum())
    mean_g = total_g / n
    variance = max(squares / n - float(np.square(mean_g).sum()), 0.0)
    return Moments(mean_g.astype(np.float32), float(np.sqrt(variance)) or 1.0)
