"""Principal components of cells."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import ArpackError
from sklearn.decomposition import PCA

from cplmix_ray.data.source import Values
from cplmix_ray.errors import InputError


def principal_components(values_ng: Values, n_components: int, seed: int) -> np.ndarray:
    """Scores (n, p) on the leading principal components, float32; a sparse matrix is centred without filling it."""
    pca = _components(values_ng, n_components, seed)
    if pca is None:
        return np.zeros((values_ng.shape[0], 1), np.float32)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):  # shares of the variance, where all cells are the same
            return np.ascontiguousarray(pca.fit_transform(values_ng), dtype=np.float32)
    except ArpackError:  # which begins with the cells' differences, and here there are none
        return np.zeros((values_ng.shape[0], 1), np.float32)


def fit_components(values_ng: Values, n_components: int, seed: int) -> PCA:
    """The same components, of at least two cells and genes, for scores of other cells.

    Raises:
        InputError: the cells are all the same.
    """
    pca = _components(values_ng, n_components, seed)
    assert pca is not None
    try:
        return pca.fit(values_ng)
    except ArpackError:
        raise InputError("The cells are all the same, so that nothing tells them apart; give other cells.") from None


def _components(values_ng: Values, n_components: int, seed: int) -> PCA | None:
    """What finds components; None where there is no room for any."""
    room = min(values_ng.shape) - 1
    if room < 1:
        return None
    small = not sp.issparse(values_ng) and values_ng.shape[1] <= 2000
    if small:
        # Covariance once, eigenvectors of g x g: fast for many images of few pixels.
        return PCA(min(n_components, room), svd_solver="covariance_eigh")
    return PCA(min(n_components, room), svd_solver="arpack", random_state=seed)
