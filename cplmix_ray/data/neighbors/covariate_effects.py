"""Removal of the effects of covariates (batch, donor, condition) from the values on which cells are compared."""

import numpy as np


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
