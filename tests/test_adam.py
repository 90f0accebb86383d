"""The optimiser is torch's own fused Adam, without what torch loads beside it."""

import pytest
import torch

from cplmix_ray.nn.adam import Adam


def parameters() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in [(2, 5, 7), (2, 1, 7), (3,)]]


def test_the_numbers_are_those_of_torchs_own_to_the_last_bit():
    """Over changing learning rates, and with weights that have no gradient at first, or ever."""
    ours, theirs = parameters(), parameters()
    pair = [(Adam(ours, 1e-2), ours), (torch.optim.Adam(theirs, lr=1e-2, fused=True), theirs)]
    for step in range(6):
        for optimiser, weights in pair:
            optimiser.zero_grad(set_to_none=True)
            first, second, _ = weights
            loss = (first.sin() * 3).sum() + (second.square().sum() if step > 2 else 0.0)
            loss.backward()
            for settings in optimiser.param_groups:
                settings["lr"] = 1e-2 / (1 + step)
            optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    (own, _), (other, _) = pair
    for mine, its in zip(ours[:2], theirs[:2], strict=True):
        assert own.state[mine].keys() == other.state[its].keys()
        for name, value in own.state[mine].items():
            assert torch.equal(value, other.state[its][name]), name
            assert value.dtype == other.state[its][name].dtype
    assert ours[2] not in own.state
    assert not torch.equal(ours[0], parameters()[0])


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_forgotten(set_to_none):
    weights = parameters()
    weights[0].sum().backward()
    Adam(weights, 1e-2).zero_grad(set_to_none)
    assert weights[0].grad is None if set_to_none else not weights[0].grad.any()
    assert weights[1].grad is None


def test_without_any_gradient_nothing_moves():
    weights = parameters()
    Adam(weights, 1e-2).step()
    assert all(torch.equal(a, b) for a, b in zip(weights, parameters(), strict=True))
