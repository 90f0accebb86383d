"""Removal of the effects of covariates (batch, donor, condition) from the values on which cells are compared."""

import numpy as np

_SHRINKAGE = 100.0
"""Cells with whose weight the effects in a category are shrunk to those that all categories share."""


def effects_of(values_np: np.ndarray, design_nv: np.ndarray) -> np.ndarray:
    """Effects (v, p) of the columns of the covariates on values (n, p), by least squares.

    For one categorical covariate these are the differences between the means of its levels and that of all cells.
    """
    if not design_nv.shape[1]:
        return np.zeros((0, values_np.shape[1]), values_np.dtype)
    centred_nv = (design_nv - design_nv.mean(axis=0)).astype(np.float64)
    square_vv, product_vp = centred_nv.T @ centred_nv, centred_nv.T @ values_np.astype(np.float64)
    # The columns of the levels of a covariate add up to zero: the pseudoinverse gives the smallest effects.
    return (np.linalg.pinv(square_vv, rcond=1e-6, hermitian=True) @ product_vp).astype(values_np.dtype)


def without_effects(values_np: np.ndarray, design_nv: np.ndarray) -> np.ndarray:
    """Values from which the effects of the covariates are subtracted, (n, p)."""
    return values_np - design_nv.astype(values_np.dtype) @ effects_of(values_np, design_nv)


def without_effects_in_categories(points_np: np.ndarray, design_nv: np.ndarray, q_nk: np.ndarray) -> np.ndarray:
    """Points from which the effects of the covariates on the cells of a category are subtracted, (n, p).

    Where batches differ in the abundance of types, the differences between their means are partly those between types;
    differences between cells of one category are not. Effects are those that all categories share and, where a category
    has many cells, deviations of its own.

    Args:
        q_nk: posterior probabilities of the categories.
    """
    n_v, weight_k = design_nv.shape[1], q_nk.sum(axis=0) + 1e-6
    square_kvv, product_kvp = np.empty((len(weight_k), n_v, n_v)), np.empty((len(weight_k), n_v, points_np.shape[1]))
    for k, q_n1 in enumerate(q_nk.T[..., None]):
        centred_nv = design_nv - (q_n1 * design_nv).sum(axis=0) / weight_k[k]
        square_kvv[k], product_kvp[k] = (q_n1 * centred_nv).T @ centred_nv, (q_n1 * centred_nv).T @ points_np
    common_vp = np.linalg.pinv(square_kvv.sum(axis=0), rcond=1e-6, hermitian=True) @ product_kvp.sum(axis=0)
    own_kvp = np.linalg.solve(square_kvv + _SHRINKAGE * np.eye(n_v), product_kvp - square_kvv @ common_vp)
    effect_np = design_nv @ common_vp + np.einsum("nk,nv,kvp->np", q_nk, design_nv, own_kvp)
    return (points_np - effect_np).astype(points_np.dtype)
