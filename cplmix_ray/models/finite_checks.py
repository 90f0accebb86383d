"""Checks that stop training at the first number that is not finite.

A NaN spreads to all that is computed from it. An infinity may stay hidden: an infinite running variance makes every
normalised value zero, and an infinite moment of Adam stops a weight for ever. So the terms of every step are checked,
and again everything that is about to be scored or saved.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.models.base import Family, Output
from cplmix_ray.utils.errors import NonFiniteError


def require_finite(terms: Mapping[str, Tensor], units: Sequence[int], step: int, kind: str = "arm") -> None:
    """Check terms of shape (U_local,), earliest in the computation first.

    Args:
        units: indices of the units held here.
        kind: what a unit is called.

    Raises:
        NonFiniteError: with the first term that is not finite, its unit and the step.
    """
    finite = torch.isfinite(torch.stack(list(terms.values())).detach()).cpu()
    if not finite.all():
        term, unit = (int(i) for i in (~finite).nonzero()[0])
        raise NonFiniteError(list(terms)[term], units[unit], step, kind)


def require_finite_outputs(
    outputs: Mapping[str, np.ndarray], family: Family, units: Sequence[int], step: int, cells: str
) -> None:
    """Check what was inferred of some cells.

    Args:
        cells: which cells they are, for the message.

    Raises:
        NonFiniteError: with the first unit and output that are not finite.
    """
    by_unit = {name: value for name, value in outputs.items() if family.outputs[name].by_unit}
    for at, unit in enumerate(units):
        for name, value in by_unit.items():
            _require(value[at], family.outputs[name], unit, step, cells, family.unit)
    for name, value in outputs.items():
        if name not in by_unit:
            _require(value, family.outputs[name], 0, step, cells, family.unit)


def _require(value: np.ndarray, output: Output, unit: int, step: int, cells: str, kind: str) -> None:
    if not np.isfinite(value).all():
        raise NonFiniteError(f"{output.meaning} ({cells})", unit, step, kind)


def require_finite_parts(
    parts: Mapping[str, Mapping[str, Tensor]], step: int, units: Mapping[str, int], kind: str
) -> None:
    """Check weights, running statistics and optimiser states of a snapshot: part -> name -> tensor.

    Args:
        units: part -> index of its unit.

    Raises:
        NonFiniteError: with the first tensor that is not finite, its unit and the step after which it was so.
    """
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise NonFiniteError(name.removeprefix("network/"), units[part], step, kind)
