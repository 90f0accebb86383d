"""How many cells each type has."""

import numpy as np

from cplmix_ray.utils.errors import InputError


def abundances(n_cells: int, n_types: int, ratio: float, bend: float) -> np.ndarray:
    """Cells of each type, most abundant first; they add up to ``n_cells``.

    Type i of T has cells in proportion to ratio^(-t^bend), t = i/(T-1): the first has ``ratio`` times as many as the
    last. Shares are rounded by largest remainder.

    Raises:
        InputError: the rarest type would have no cell.
    """
    share = ratio ** -(np.linspace(0, 1, n_types) ** bend)
    share *= n_cells / share.sum()
    cells = np.floor(share).astype(int)
    cells[np.argsort(cells - share, kind="stable")[: n_cells - cells.sum()]] += 1
    if cells.min() < 1:
        raise InputError(
            f"{n_cells} cells are too few for {n_types} types with an abundance ratio of {ratio:.4g}: the rarest would "
            f"have none; give more --cells or a smaller --abundance-ratio."
        )
    return cells
