"""Training stops at the first number that is not finite, and says where it arose."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cplmix_ray.errors import NonFiniteError


def require_finite(terms: Mapping[str, Tensor], arms: Sequence[int], step: int) -> None:
    """Check terms of shape (A_local,), earliest in the computation first.

    Raises:
        NonFiniteError: with the first offending term, its arm and the step.
    """
    fine = torch.isfinite(torch.stack(list(terms.values())).detach()).cpu()
    if not fine.all():
        term, arm = (int(i) for i in (~fine).nonzero()[0])
        raise NonFiniteError(list(terms)[term], arms[arm], step)
