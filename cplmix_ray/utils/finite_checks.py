"""Training stops at the first number that is not finite, and says where it arose.

A NaN spreads to all that is computed from it. An infinity may hide: a running variance without bound makes every
normalised value zero, and an infinite moment of Adam stops a weight for ever. So what a step yields is checked, and
again all that is about to be scored or saved.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.utils.errors import NonFiniteError


def require_finite(terms: Mapping[str, Tensor], arms: Sequence[int], step: int) -> None:
    """Check terms of shape (A_local,), earliest in the computation first.

    Raises:
        NonFiniteError: with the first offending term, its arm and the step.
    """
    fine = torch.isfinite(torch.stack(list(terms.values())).detach()).cpu()
    if not fine.all():
        term, arm = (int(i) for i in (~fine).nonzero()[0])
        raise NonFiniteError(list(terms)[term], arms[arm], step)


def require_finite_posteriors(
    log_q_ank: np.ndarray, reconstruction: Sequence[float], arms: Sequence[int], step: int, cells: str
) -> None:
    """Check log-posteriors, shape (A_local, n, K), and reconstruction losses (A_local) of some cells.

    Args:
        cells: which cells they are.

    Raises:
        NonFiniteError: with the first arm of which one is not finite.
    """
    for at, arm in enumerate(arms):
        if not np.isfinite(log_q_ank[at]).all():
            raise NonFiniteError(f"posterior ({cells})", arm, step)
        if log_q_ank.shape[1] and not np.isfinite(reconstruction[at]):
            raise NonFiniteError(f"reconstruction ({cells})", arm, step)


def require_finite_tensors(arms: Mapping[int, Mapping[str, Tensor]], step: int) -> None:
    """Check weights, running statistics and Adam's moments of a snapshot: arm -> name -> tensor.

    Raises:
        NonFiniteError: with the first tensor that is not finite, its arm and the step after which it was so.
    """
    for arm, tensors in arms.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise NonFiniteError(name.removeprefix("network/"), arm, step)
