"""Bitwise comparison of the state of two sets of arms."""

import torch
from torch import Tensor


def assert_bitwise(one: dict[int, dict[str, Tensor]], other: dict[int, dict[str, Tensor]]) -> None:
    """Fail unless all tensors are equal; both are arm -> name -> tensor, as in snapshots and checkpoints."""
    assert one.keys() == other.keys()
    for arm in one:
        assert one[arm].keys() == other[arm].keys()
        for name in one[arm]:
            assert torch.equal(one[arm][name], other[arm][name]), (arm, name)
