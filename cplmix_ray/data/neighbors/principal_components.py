"""Principal components of cells."""

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

from cplmix_ray.data.matrix.block import Block
from cplmix_ray.utils.errors import InputError

_LEAST_SPREAD = 1e-12
"""Of log-expression; the squares of less are lost in 32 bits."""


def require_differences(values_ng: Block, name: str) -> None:
    """Two cells or more are compared only where there is a gene in which they differ.

    Args:
        name: of the data, for the message.

    Raises:
        InputError: there is none.
    """
    spread_g = values_ng.max(axis=0) - values_ng.min(axis=0)
    if values_ng.shape[0] > 1 and spread_g.max() <= _LEAST_SPREAD:
        raise InputError(
            f"{name} has no gene in which its training cells differ, once prepared, so there is nothing to tell apart; "
            f"look at the matrix (--layer), and at --target-sum where it is set."
        )


def principal_components(values_ng: Block, n_components: int, seed: int) -> np.ndarray:
    """Scores (n, p) on the leading principal components, float32; a sparse matrix is centred without filling it.

    Cells must differ, as ``require_differences`` sees to.
    """
    pca = _components(values_ng, n_components, seed)
    if pca is None:
        return np.zeros((values_ng.shape[0], 1), np.float32)
    return np.ascontiguousarray(pca.fit_transform(values_ng), dtype=np.float32)


def fit_components(values_ng: Block, n_components: int, seed: int) -> PCA:
    """The same components, of at least two cells and genes, for scores of other cells."""
    pca = _components(values_ng, n_components, seed)
    assert pca is not None
    return pca.fit(values_ng)


def _components(values_ng: Block, n_components: int, seed: int) -> PCA | None:
    """What finds components; None where there is no room for any."""
    room = min(values_ng.shape) - 1
    if room < 1:
        return None
    small = not sp.issparse(values_ng) and values_ng.shape[1] <= 2000
    if small:
        # Covariance once, eigenvectors of g x g: fast for many images of few pixels.
        return PCA(min(n_components, room), svd_solver="covariance_eigh")
    return PCA(min(n_components, room), svd_solver="arpack", random_state=seed)
