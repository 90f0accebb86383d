"""Whether two sets of arms are the same to the last bit."""

import torch
from torch import Tensor


def assert_bitwise(one: dict[int, dict[str, Tensor]], other: dict[int, dict[str, Tensor]]) -> None:
    """Arm -> name -> tensor, as snapshots and checkpoints hold them."""
    assert one.keys() == other.keys()
    for arm in one:
        assert one[arm].keys() == other[arm].keys()
        for name in one[arm]:
            assert torch.equal(one[arm][name], other[arm][name]), (arm, name)
