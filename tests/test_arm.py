"""Packed arms: the same numbers as arms one by one, whatever the layout, and a posterior with a floor."""

import math

import pytest
import torch
from torch import Tensor, nn

from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.distributions.likelihood import LIKELIHOODS
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup, load_weights, part_of
from cplmix_ray.models.cplmixvae.config import ArmTraining, CplMixVAEConfig, ModelSettings
from cplmix_ray.models.cplmixvae.network import ArmShape, PackedArms
from cplmix_ray.models.cplmixvae.training_step import StepContext, train_step
from cplmix_ray.nn.packed_layers import PackedBatchNorm, PackedLinear, PackedMLP

CPU = torch.device("cpu")


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator_of(seed), dtype=torch.float64)


def drawn(module: nn.Module, seed: int = 1) -> nn.Module:
    """In float64, with every parameter set to something that is not special."""
    generator = generator_of(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def plain_linear(packed: PackedLinear, a: int) -> nn.Linear:
    """torch.nn's module with the a-th set of weights."""
    _, n_in, n_out = packed.weight.shape
    linear = nn.Linear(n_in, n_out, bias=packed.bias is not None, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(packed.weight[a].T)
        if packed.bias is not None:
            linear.bias.copy_(packed.bias[a, 0])
    return linear


def plain_norm(packed: PackedBatchNorm, a: int) -> nn.BatchNorm1d:
    affine = packed.weight is not None
    width = packed.running_mean.shape[-1]
    norm = nn.BatchNorm1d(width, eps=packed.eps, momentum=packed.momentum, affine=affine, dtype=torch.float64)
    if affine:
        with torch.no_grad():
            norm.weight.copy_(packed.weight[a, 0])
            norm.bias.copy_(packed.bias[a, 0])
    return norm


def assert_equal(one: dict, other: dict) -> None:
    """Bitwise, tensor by tensor."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


# Layers


@pytest.mark.parametrize("n_arms", [1, 2, 4])
@pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])
def test_a_packed_linear_layer_is_one_linear_layer_an_arm(n_arms, shared):
    packed = drawn(PackedLinear(1 if shared else n_arms, 5, 3))
    x_ani = normal(n_arms, 7, 5)
    y_ano = packed(x_ani)
    for a in range(n_arms):
        torch.testing.assert_close(y_ano[a], plain_linear(packed, 0 if shared else a)(x_ani[a]))


@pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])
@pytest.mark.parametrize("affine", [False, True])
def test_packed_batch_normalisation_is_one_normalisation_an_arm_in_training_and_after(shared, affine):
    n_arms, n_cells, steps = 3, 8, 5
    packed = drawn(PackedBatchNorm(1 if shared else n_arms, n_arms, 4, affine))
    plain = [plain_norm(packed, 0 if shared else a) for a in range(n_arms)]
    for step in range(steps):
        x_anh = 2 * normal(n_arms, n_cells, 4, seed=step) + step
        torch.testing.assert_close(packed(x_anh), torch.stack([p(x) for p, x in zip(plain, x_anh, strict=True)]))
    torch.testing.assert_close(packed.running_mean[:, 0], torch.stack([p.running_mean for p in plain]))
    # torch keeps the unbiased variance, n/(n-1) of ours, which one cell does not have.
    start = (1 - packed.momentum) ** steps
    expected_ah = start + (torch.stack([p.running_var for p in plain]) - start) * (n_cells - 1) / n_cells
    torch.testing.assert_close(packed.running_var[:, 0], expected_ah)

    packed.eval()
    x_anh = normal(n_arms, 2, 4, seed=9)
    for p, variance in zip(plain, packed.running_var[:, 0], strict=True):
        p.eval()
        p.running_var.copy_(variance)
    torch.testing.assert_close(packed(x_anh), torch.stack([p(x) for p, x in zip(plain, x_anh, strict=True)]))


def test_batch_normalisation_of_one_cell_is_its_offset_and_not_nan():
    packed = drawn(PackedBatchNorm(2, 2, 4))
    x_anh = normal(2, 1, 4).requires_grad_()
    y_anh = packed(x_anh)
    torch.testing.assert_close(y_anh, packed.bias.expand_as(y_anh))
    assert torch.isfinite(torch.autograd.grad(y_anh.sum(), x_anh)[0]).all()
    assert torch.isfinite(packed.running_var).all()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])
@pytest.mark.parametrize("widths", [(5, 4), (5, 6, 3, 4)])
def test_a_packed_mlp_is_one_mlp_an_arm_in_value_and_gradient(batch_norm, shared, widths):
    n_arms = 3
    packed = drawn(PackedMLP(1 if shared else n_arms, n_arms, widths, batch_norm))
    x_ani = normal(n_arms, 9, widths[0]).requires_grad_()
    y_ano = packed(x_ani)
    (slope_ani,) = torch.autograd.grad(y_ano.square().sum(), x_ani)
    for a in range(n_arms):
        weights = 0 if shared else a
        layers: list[nn.Module] = []
        for i, linear in enumerate(packed.linears):
            layers.append(plain_linear(linear, weights))
            if batch_norm:
                layers.append(plain_norm(packed.norms[i], weights))
            layers.append(nn.ReLU())
        x_ni = x_ani[a].detach().requires_grad_()
        y_no = nn.Sequential(*layers)(x_ni)
        torch.testing.assert_close(y_ano[a], y_no)
        torch.testing.assert_close(slope_ani[a], torch.autograd.grad(y_no.square().sum(), x_ni)[0])


def test_an_arm_does_not_see_the_others():
    """Changing one arm's cells leaves the others' outputs as they are, to the last bit."""
    network = drawn(
        PackedArms(3, ModelSettings(n_arms=3, hidden=(6,), bottleneck=4), ArmShape(5, LIKELIHOODS["gaussian"]))
    )
    x_ang, changed_ang = normal(3, 8, 5), normal(3, 8, 5)
    changed_ang[1] = normal(8, 5, seed=7)
    before, after = (network.encode(x).log_q_ank for x in (x_ang, changed_ang))
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


# The posterior


@pytest.mark.parametrize("n_categories", [1, 2, 10, 120])
@pytest.mark.parametrize("tau", [None, 0.02, 0.1, 1.0])
@pytest.mark.parametrize("size", [0.1, 3.0, 1e4])
def test_the_tempered_posterior_is_a_distribution_and_bounded_below(n_categories, tau, size):
    """softmax takes p in [0, 1] over tau, so log q_k >= 0 - log(sum_j exp(p_j / tau)) >= -1/tau - log K."""
    model = ModelSettings(n_categories=n_categories, n_arms=2, hidden=(6,), bottleneck=4, tau=tau)
    network = drawn(PackedArms(2, model, ArmShape(5, LIKELIHOODS["gaussian"])))
    with torch.no_grad():
        network.category_head.weight.mul_(size)
    log_q_ank = network.encode(normal(2, 50, 5)).log_q_ank
    torch.testing.assert_close(log_q_ank.exp().sum(-1), torch.ones(2, 50, dtype=torch.float64))
    temperature = 1 / n_categories if tau is None else tau
    assert model.temperature == temperature
    lowest = float(log_q_ank.detach().min())
    assert lowest >= -1 / temperature - math.log(n_categories) - 1e-9
    # The sum of exponentials is convex in p, so largest at a corner of the simplex: a sharp bound, which is reached.
    sharp = -1 / temperature - math.log1p((n_categories - 1) * math.exp(-1 / temperature))
    assert lowest >= sharp - 1e-9
    if size == 1e4 and n_categories > 1:
        assert lowest == pytest.approx(sharp, abs=1e-6)


def test_the_tempered_posterior_is_the_softmax_of_a_softmax():
    model = ModelSettings(n_categories=3, n_arms=1, hidden=(), bottleneck=4, tau=0.25)
    network = drawn(PackedArms(1, model, ArmShape(5, LIKELIHOODS["gaussian"])))
    encoded = network.encode(normal(1, 20, 5))
    logits_ank = encoded.z_anb @ network.category_head.weight + network.category_head.bias
    q_ank = (4 * (logits_ank.exp() / logits_ank.exp().sum(-1, keepdim=True))).exp()
    torch.testing.assert_close(encoded.log_q_ank, (q_ank / q_ank.sum(-1, keepdim=True)).log())


# Layouts


def config_of(n_arms: int = 3, **model) -> CplMixVAEConfig:
    widths = {"n_categories": 4, "hidden": (6, 5), "bottleneck": 4}
    return CplMixVAEConfig(
        model=ModelSettings(n_arms=n_arms, **{**widths, **model}), training=ArmTraining(max_steps=20), seed=8
    )


def group_of(config: CplMixVAEConfig, arms: tuple[int, ...], saved=None, step: int = 0) -> ArmGroup:
    kind = "counts" if config.model.likelihood in ("nb", "zinb") else "log"
    preparation = Preparation(kind, tuple(f"g{i}" for i in range(5)), library=9.0)
    return ArmGroup(config, preparation, arms, CPU, saved, step)


def train(group: ArmGroup, config: CplMixVAEConfig, first: int, steps: int) -> None:
    """Steps on cells that depend on the step alone."""
    context = StepContext(config, lambda idx: idx, [], 20, UnitSum())
    for step in range(first, first + steps):
        train_step(group, context, 4 * torch.rand(len(group.arms), 16, 5, generator=generator_of(step)), step)


def network_of(snapshot: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in snapshot.items() if name.startswith("network/")}


SWITCHES = [{}, {"likelihood": "zinb"}, {"shared_parameters": True}, {"batch_norm": False, "likelihood": "nb"}]
SWITCH_NAMES = ["default", "zinb", "shared weights", "nb without batch norm"]


@pytest.mark.parametrize("model", SWITCHES, ids=SWITCH_NAMES)
def test_arms_start_the_same_whichever_worker_holds_them(model):
    config = config_of(**model)
    packed = group_of(config, (0, 1, 2)).snapshot()
    assert list(packed) == ["arm-0", "arm-1", "arm-2"]
    for arms in [(0,), (1,), (2,), (1, 2), (2, 0)]:
        for arm, tensors in group_of(config, arms).snapshot().items():
            assert_equal(tensors, packed[arm])


def test_arms_start_apart_and_another_seed_starts_elsewhere():
    config = config_of()
    packed = group_of(config, (0, 1, 2)).snapshot()
    other = group_of(config.model_copy(update={"seed": 9}), (0, 1, 2)).snapshot()
    for name, tensor in packed["arm-0"].items():
        if name.endswith("weight") and "norms" not in name:
            assert not torch.equal(tensor, packed["arm-1"][name])
            assert not torch.equal(tensor, other["arm-0"][name])


def test_weights_start_uniform_within_one_over_the_root_of_the_number_of_inputs():
    layer = PackedLinear(2, 100, 200)
    layer.reset_parameters(0, generator_of(0))
    layer.reset_parameters(1, generator_of(1))
    for values in (layer.weight, layer.bias):
        assert float(values.detach().abs().max()) <= 0.1
    assert float(layer.weight.detach().abs().max()) > 0.0999
    assert float(layer.weight.detach().std()) == pytest.approx(0.1 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("model", SWITCHES, ids=SWITCH_NAMES)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_snapshot_brings_everything_back_to_the_last_bit(model, steps):
    config = config_of(**model)
    group = group_of(config, (0, 1, 2))
    train(group, config, 0, steps)
    saved = group.snapshot()
    restored = group_of(config, (0, 1, 2), saved, steps)
    for arm, tensors in restored.snapshot().items():
        for name in saved[arm]:
            assert torch.equal(tensors[name], saved[arm][name]), name
        # Adam has no moments before its first step; afterwards nothing may be new.
        assert steps == 0 or tensors.keys() == saved[arm].keys()
    # What is not in the snapshot must not matter: both go on alike.
    train(group, config, steps, 3)
    train(restored, config, steps, 3)
    for arm in saved:
        assert_equal(restored.snapshot()[arm], group.snapshot()[arm])


@pytest.mark.parametrize("model", SWITCHES, ids=SWITCH_NAMES)
@pytest.mark.parametrize("layout", [((0,), (1,), (2,)), ((0, 1), (2,)), ((2,), (1, 0))], ids=str)
def test_a_snapshot_moves_to_other_workers_and_back_to_the_last_bit(model, layout):
    config = config_of(**model)
    group = group_of(config, (0, 1, 2))
    train(group, config, 0, 3)
    saved = group.snapshot()
    spread: dict[str, dict[str, Tensor]] = {}
    for arms in layout:
        spread |= group_of(config, arms, {part_of(arm): saved[part_of(arm)] for arm in arms}, 3).snapshot()
    back = group_of(config, (0, 1, 2), spread, 3)
    for arm in saved:
        assert_equal(spread[arm], saved[arm])
        assert_equal(back.snapshot()[arm], saved[arm])
    train(group, config, 3, 2)
    train(back, config, 3, 2)
    for arm in saved:
        assert_equal(back.snapshot()[arm], group.snapshot()[arm])


def test_a_snapshot_is_a_copy_and_not_a_view():
    config = config_of()
    group = group_of(config, (0, 1))
    saved = group.snapshot()
    before = {name: tensor.clone() for name, tensor in saved["arm-0"].items()}
    train(group, config_of(2), 0, 2)
    assert_equal(saved["arm-0"], before)


def test_weights_alone_are_taken_over_for_inference():
    config = config_of()
    group = group_of(config, (0, 1, 2))
    train(group, config, 0, 3)
    saved = group.snapshot()
    other = group_of(config.model_copy(update={"seed": 99}), (0, 1, 2))
    load_weights(other.network, other.arms, saved)
    for arm in saved:
        assert_equal(network_of(other.snapshot()[arm]), network_of(saved[arm]))
    x_ang = torch.rand(3, 4, 5, generator=generator_of(3))
    posteriors = [g.network.eval().encode(x_ang).log_q_ank for g in (group, other)]
    assert torch.equal(*posteriors)


@pytest.mark.parametrize(
    ("name", "view"),
    [*((name, "whole") for name in LIKELIHOODS.names()), ("bernoulli", "content"), ("gaussian", "content")],
)
def test_products_in_half_precision_change_little(name, view):
    model = ModelSettings(n_arms=2, n_categories=3, hidden=(16,), bottleneck=6, encoder_view=view, tau=1.0)
    shape = ArmShape(144, LIKELIHOODS[name], library=50.0, image_shape=(12, 12))
    x_ang = torch.rand(2, 30, 144, generator=generator_of(1))
    x_ang = (3 * x_ang).floor() if LIKELIHOODS[name].counts else x_ang
    told = []
    for precision in (None, torch.bfloat16):
        network = PackedArms(2, model, shape, precision)
        network.draw([generator_of(arm) for arm in (0, 1)])
        encoded = network.encode(x_ang)
        q_ank = encoded.log_q_ank.exp()
        loss_a = network.reconstruction(x_ang, network.state(encoded.z_anb, q_ank)[0], q_ank)
        loss_a.sum().backward()
        slopes = [p.grad for p in network.parameters() if p.grad is not None]
        assert all(slope.dtype == torch.float32 and torch.isfinite(slope).all() for slope in slopes)
        told.append((q_ank.detach(), loss_a.detach()))
    (q, loss), (rounded_q, rounded_loss) = told
    assert not torch.equal(loss, rounded_loss)
    torch.testing.assert_close(rounded_q, q, rtol=0, atol=0.02)
    torch.testing.assert_close(rounded_loss, loss, rtol=0.01, atol=0)
