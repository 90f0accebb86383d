"""Eq. 7, written out again from the parameters with torch's own distributions, against a real training step."""

import math
from itertools import combinations

import pytest
import scipy.sparse
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, NegativeBinomial, Normal, kl_divergence
from torch.nn.functional import batch_norm

from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.models.cplmixvae import training_step as trainer_step
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.config import ArmTraining, CplMixVAEConfig, ModelSettings, Objective
from cplmix_ray.models.cplmixvae.objective import (
    Terms,
    Weights,
    arm_weight,
    categorical_entropy,
    loss_of,
    marginal_entropy,
    state_kl,
    weights_at,
)
from cplmix_ray.models.cplmixvae.training_step import StepContext, train_step
from cplmix_ray.nn.sparse_rows import SparseRows
from cplmix_ray.utils.randomness import GUMBEL, STATE

CPU = torch.device("cpu")
N_CELLS, N_GENES, LIBRARY = 13, 7, 20.0
KIND = {"bernoulli": "images", "gaussian": "log", "nb": "counts", "zinb": "counts"}
EXACT = {"rtol": 1e-7, "atol": 1e-9}
"""Float64 on both sides; what differs is the order of the operations, and the dispersion's lgamma."""


def config_of(n_arms: int, beta: float = 1.0, lam: float = 1.0, lr: float = 1e-3, **model) -> CplMixVAEConfig:
    widths = {"n_categories": 4, "state_dim": 2, "hidden": (6,), "bottleneck": 5}
    return CplMixVAEConfig(
        model=ModelSettings(n_arms=n_arms, **{**widths, **model}),
        objective=Objective(beta=beta, lam=lam),
        training=ArmTraining(lr=lr, max_steps=10),
        seed=11,
    )


def group_of(config: CplMixVAEConfig, arms: tuple[int, ...] | None = None) -> ArmGroup:
    """Arms in float64, their weights moved away from the special values that they start from."""
    kind = KIND[config.model.likelihood]
    preparation = Preparation(kind, tuple(f"g{i}" for i in range(N_GENES)), library=LIBRARY)
    group = ArmGroup(config, preparation, tuple(range(config.model.n_arms)) if arms is None else arms, CPU)
    generator = torch.Generator().manual_seed(1)
    group.network.double()
    with torch.no_grad():
        for parameter in group.network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return group


def cells_of(likelihood: str, n_arms: int, n_cells: int = N_CELLS) -> Tensor:
    """Different copies for each arm, float64."""
    uniform = torch.rand(n_arms, n_cells, N_GENES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return {"bernoulli": uniform.round(), "gaussian": 3 * uniform}.get(likelihood, (9 * uniform.square()).floor())


def sparse_rows(x_ang: Tensor) -> list[SparseRows]:
    """The same cells with what is zero left out."""
    return [SparseRows.from_csr(scipy.sparse.csr_matrix(x_ng.numpy())) for x_ng in x_ang]


def context_of(config: CplMixVAEConfig) -> StepContext:
    return StepContext(config, lambda idx: idx, [], 10, UnitSum())


def noise_to_come(group: ArmGroup, n_cells: int) -> tuple[Tensor, Tensor]:
    """The Gumbel and Gaussian noise of the next step, from copies of the arms' generators."""
    model, gumbel, gauss = group.network.model, [], []
    for (generators,) in group.generators:
        category, state = (torch.Generator().set_state(generators[p].get_state()) for p in (GUMBEL, STATE))
        gumbel.append(-torch.rand(n_cells, model.n_categories, generator=category).log().neg().log())
        gauss.append(torch.randn(n_cells, model.state_dim, generator=state))
    return torch.stack(gumbel), torch.stack(gauss)


# The paper's model for one arm, in plain torch. ``w`` holds that arm's tensors by name.


def mlp(w: dict[str, Tensor], name: str, h: Tensor, norm: bool) -> Tensor:
    layer = 0
    while f"{name}.linears.{layer}.weight" in w:
        h = h @ w[f"{name}.linears.{layer}.weight"]
        if f"{name}.linears.{layer}.bias" in w:
            h = h + w[f"{name}.linears.{layer}.bias"]
        if norm:
            scale, offset = (w[f"{name}.norms.{layer}.{part}"].squeeze(0) for part in ("weight", "bias"))
            h = batch_norm(h, None, None, scale, offset, training=True, eps=1e-3)
        h = h.clamp_min(0)
        layer += 1
    return h


def linear(w: dict[str, Tensor], name: str, h: Tensor) -> Tensor:
    return h @ w[f"{name}.weight"] + w[f"{name}.bias"]


def log_likelihood(w: dict[str, Tensor], name: str, x: Tensor, out: Tensor) -> Tensor:
    if name == "bernoulli":
        return Bernoulli(logits=out).log_prob(x).sum(-1)
    if name == "gaussian":
        return Normal(out, 1.0).log_prob(x).sum(-1)
    theta = w["log_theta"].exp()
    mu = x.sum(-1, keepdim=True).clamp_min(1) * torch.softmax(out[:, :N_GENES], dim=-1)
    nb = NegativeBinomial(theta, logits=mu.log() - theta.log()).log_prob(x)
    if name == "nb":
        return nb.sum(-1)
    extra = torch.sigmoid(out[:, N_GENES:])
    return ((x == 0) * extra + (1 - extra) * nb.exp()).log().sum(-1)


def mixture_vae(
    w: dict[str, Tensor], model: ModelSettings, x: Tensor, gumbel: Tensor, gauss: Tensor
) -> dict[str, Tensor]:
    """-E log p(x|s,c), E KL(q(s|c,x)||p(s)), H(c|x) and log q(c|x) of one arm's cells."""
    h = x
    if KIND[model.likelihood] == "counts":
        h = torch.log1p(x * LIBRARY / x.sum(-1, keepdim=True).clamp_min(1))
    z = batch_norm(mlp(w, "encoder", h, model.batch_norm), None, None, training=True, eps=1e-3)
    tempered = torch.softmax(linear(w, "category_head", z), dim=-1) / model.temperature
    posterior = Categorical(logits=tempered)
    c = torch.softmax((posterior.logits + gumbel) / model.gumbel_temperature, dim=-1)
    state_in = torch.cat([z, c], dim=-1) if model.state_given_category else z
    mu, log_var = linear(w, "state_head", state_in).split(model.state_dim, dim=-1)
    state = Normal(mu, (log_var / 2).exp())
    s = state.mean + state.stddev * gauss
    weight = w["output.weight"]  # genes first, the offset last
    out = mlp(w, "decoder", torch.cat([c, s], dim=-1), model.batch_norm) @ weight[:, :-1].T + weight[:, -1]
    return {
        "reconstruction": -log_likelihood(w, model.likelihood, x, out).mean(),
        "kl_state": kl_divergence(state, Normal(0.0, 1.0)).sum(-1).mean(),
        "entropy": posterior.entropy().mean(),
        "log_q": posterior.logits,
    }


def leaves_of(group: ArmGroup) -> dict[str, Tensor]:
    return {name: p.detach().clone().requires_grad_() for name, p in group.network.named_parameters()}


def arms_of(leaves: dict[str, Tensor], group: ArmGroup, x_ang: Tensor) -> list[dict[str, Tensor]]:
    """Every arm's terms; weights that arms share have one set."""
    gumbel_ank, gauss_and = noise_to_come(group, x_ang.shape[1])
    shared = group.network.model.shared_parameters
    return [
        mixture_vae(
            {name: p[0 if shared else a] for name, p in leaves.items()},
            group.network.model,
            x_ang[a],
            gumbel_ank[a],
            gauss_and[a],
        )
        for a in range(len(x_ang))
    ]


def d_sigma2(log_p: Tensor, log_q: Tensor, floor: float) -> Tensor:
    scaled = [log / log.exp().var(0, correction=0).clamp_min(floor**2).sqrt() for log in (log_p, log_q)]
    return (scaled[0] - scaled[1]).square().sum(-1).mean()


def eq_7(arms: list[dict[str, Tensor]], beta: float, lam: float, floor: float) -> tuple[Tensor, Tensor]:
    """The loss as printed, over arms and over pairs of arms, with the sign turned; and the sum of the distances."""
    loss = sum((len(arms) - 1) * (arm["reconstruction"] + beta * arm["kl_state"]) for arm in arms)
    distance = torch.zeros((), dtype=torch.float64)
    for a, b in combinations(arms, 2):
        apart = d_sigma2(a["log_q"], b["log_q"], floor)
        loss = loss - (a["entropy"] + b["entropy"] - lam * apart)
        distance = distance + apart
    return loss, distance


def total_of(report: dict[str, Tensor], distance: Tensor, config: CplMixVAEConfig) -> Tensor:
    """The whole loss from the terms that a step reports, which its own sum over arms has to equal."""
    names = ("entropy", "marginal_entropy", "reconstruction", "kl_state")
    own_a = loss_of(Terms(*(report[name] for name in names)), config.model.n_arms, weights_at(99, config))
    total = own_a.sum() + config.objective.lam * distance
    torch.testing.assert_close(report["loss"].sum(), total, **EXACT)
    return total


def gradients_of(group: ArmGroup) -> dict[str, Tensor]:
    """What the last step went down; the step leaves it behind."""
    return {name: p.grad.clone() for name, p in group.network.named_parameters()}


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], **tolerance) -> None:
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance or EXACT)


def slopes(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


# A = 1


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "nb", "zinb"])
@pytest.mark.parametrize(
    "switches",
    [{}, {"batch_norm": False}, {"state_given_category": False}, {"gumbel_temperature": 0.5, "tau": 0.1}],
    ids=["default", "no batch norm", "state alone", "temperatures"],
)
@pytest.mark.parametrize(("beta", "sparse"), [(1.0, False), (0.3, True)], ids=["dense", "sparse"])
def test_one_arm_is_a_plain_mixture_vae(likelihood, switches, beta, sparse):
    config = config_of(1, beta, lam=5.0, likelihood=likelihood, **switches)
    group, x_ang = group_of(config), cells_of(likelihood, 1)
    leaves = leaves_of(group)
    (arm,) = arms_of(leaves, group, x_ang)
    loss = arm["reconstruction"] + beta * arm["kl_state"] - arm["entropy"]
    report, distance = train_step(group, context_of(config), sparse_rows(x_ang) if sparse else x_ang, 0)
    assert distance == 0
    for name in ("reconstruction", "kl_state", "entropy"):
        torch.testing.assert_close(report[name][0], arm[name].detach(), **EXACT)
    torch.testing.assert_close(total_of(report, distance, config), loss.detach(), **EXACT)
    assert_same(gradients_of(group), slopes(loss, leaves))


# A > 1


@pytest.mark.parametrize("n_arms", [2, 3])
@pytest.mark.parametrize(("beta", "lam"), [(1.0, 1.0), (0.4, 0.0), (2.5, 0.03), (0.0, 7.0)])
@pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_the_loss_and_its_gradient_are_those_of_equation_7(n_arms, beta, lam, shared, sparse):
    config = config_of(n_arms, beta, lam, likelihood="gaussian", shared_parameters=shared)
    group, x_ang = group_of(config), cells_of("gaussian", n_arms)
    leaves = leaves_of(group)
    arms = arms_of(leaves, group, x_ang)
    loss, expected_distance = eq_7(arms, beta, lam, config.objective.sigma_floor)
    report, distance = train_step(group, context_of(config), sparse_rows(x_ang) if sparse else x_ang, 0)
    for name in ("reconstruction", "kl_state", "entropy"):
        torch.testing.assert_close(report[name], torch.stack([arm[name].detach() for arm in arms]), **EXACT)
    torch.testing.assert_close(distance, expected_distance.detach(), **EXACT)
    torch.testing.assert_close(total_of(report, distance, config), loss.detach(), **EXACT)
    assert_same(gradients_of(group), slopes(loss, leaves), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("n_arms", "weight"), [(1, 1), (2, 1), (3, 2), (8, 7)])
def test_an_arm_counts_once_for_every_pair_that_it_is_in(n_arms, weight):
    assert arm_weight(n_arms) == weight
    terms = Terms(*(torch.tensor([value]) for value in (2.0, 1.5, 5.0, 3.0)))
    published = Weights("d_sigma", 1.0, 1.0, 0.5, 1.0, 0.0)
    assert float(loss_of(terms, n_arms, published)) == weight * (5.0 + 0.5 * 3.0 - 2.0)
    weighted = Weights("d_sigma", 1.0, 0.25, 0.5, -4.0, 8.0)
    assert float(loss_of(terms, n_arms, weighted)) == weight * (0.25 * (5.0 + 0.5 * 3.0) + 4.0 * 2.0 - 8.0 * 1.5)
    encoders_alone = Weights("agreement", 1.0, None, 0.0, 0.0, 2.0)
    assert float(loss_of(Terms(*list(vars(terms).values())[:2]), n_arms, encoders_alone)) == weight * -2.0 * 1.5


@pytest.mark.parametrize("n_fine", [1, 5])
def test_the_marginal_entropy_is_that_of_the_mean_posterior(n_fine):
    logits = torch.randn(3, 9, n_fine, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = Categorical(probs=torch.softmax(logits, dim=-1).mean(1)).entropy()
    torch.testing.assert_close(marginal_entropy(torch.log_softmax(logits, dim=-1)), expected)
    one_hot = torch.zeros(1, 4, 2, dtype=torch.float64).log_softmax(-1)
    torch.testing.assert_close(marginal_entropy(one_hot), torch.tensor([2.0], dtype=torch.float64).log())


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1), (0, 2, 1)], ids=str)
def test_the_loss_does_not_know_the_order_of_the_arms(order):
    config = config_of(len(order), lam=0.7, likelihood="nb")
    group, permuted = group_of(config), group_of(config)
    with torch.no_grad():
        for parameter in permuted.network.parameters():
            parameter.copy_(parameter[list(order)].clone())
    permuted.generators = [permuted.generators[a] for a in order]
    x_ang = cells_of("nb", len(order))
    report, distance = train_step(group, context_of(config), x_ang, 0)
    report_p, distance_p = train_step(permuted, context_of(config), x_ang[list(order)], 0)
    torch.testing.assert_close(distance_p, distance, **EXACT)
    torch.testing.assert_close(total_of(report_p, distance_p, config), total_of(report, distance, config), **EXACT)
    assert_same(gradients_of(permuted), {n: g[list(order)] for n, g in gradients_of(group).items()})


@pytest.mark.parametrize("state_given_category", [True, False])
@pytest.mark.parametrize("shared", [False, True], ids=["own weights", "shared weights"])
def test_the_loss_does_not_know_the_names_of_the_categories(monkeypatch, state_given_category, shared):
    """All arms' categories are renamed alike: columns of the head, rows of what takes c in, and the Gumbel noise."""
    switches = {"state_given_category": state_given_category, "shared_parameters": shared}
    config = config_of(2, lam=0.7, likelihood="gaussian", **switches)
    order, n_b = torch.tensor([2, 0, 3, 1]), config.model.bottleneck
    group, renamed = group_of(config), group_of(config)
    network = renamed.network
    with torch.no_grad():
        for parameter in network.category_head.parameters():
            parameter.copy_(parameter[..., order].clone())
        first = network.decoder.linears[0].weight
        first[:, :4] = first[:, order].clone()
        if state_given_category:
            weight = network.state_head.weight
            weight[:, n_b:] = weight[:, n_b + order].clone()
    x_ang = cells_of("gaussian", 2)
    report, distance = train_step(group, context_of(config), x_ang, 0)
    drawn = trainer_step._noise
    monkeypatch.setattr(
        trainer_step, "_noise", lambda g, p, like: drawn(g, p, like)[..., order] if p == GUMBEL else drawn(g, p, like)
    )
    report_r, distance_r = train_step(renamed, context_of(config), x_ang, 0)
    torch.testing.assert_close(distance_r, distance, **EXACT)
    for name in ("reconstruction", "kl_state", "entropy", "gradient"):
        torch.testing.assert_close(report_r[name], report[name], **EXACT)
    expected = gradients_of(group)["category_head.weight"][..., order]
    torch.testing.assert_close(gradients_of(renamed)["category_head.weight"], expected, **EXACT)


def test_renaming_the_categories_of_one_arm_alone_does_change_the_loss():
    """The counterpart of the test above: the coupling compares category k with category k."""
    config = config_of(2, likelihood="gaussian")
    group, renamed = group_of(config), group_of(config)
    with torch.no_grad():
        for parameter in renamed.network.category_head.parameters():
            parameter[0] = parameter[0][..., [2, 0, 3, 1]].clone()
    x_ang = cells_of("gaussian", 2)
    distance, other = (train_step(g, context_of(config), x_ang, 0)[1] for g in (group, renamed))
    assert abs(float(other - distance)) > 1e-2 * float(distance)


# Terms


def test_the_divergence_of_the_state_is_that_of_torch():
    generator = torch.Generator().manual_seed(3)
    mu, log_var = (torch.randn(2, 9, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(state_kl(mu, log_var), expected)
    assert (state_kl(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)) == 0).all()


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_the_entropy_of_the_category_is_that_of_torch(spread):
    logits = spread * torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    entropy = categorical_entropy(torch.log_softmax(logits, dim=-1))
    torch.testing.assert_close(entropy, Categorical(logits=logits).entropy())
    if spread == 0:
        torch.testing.assert_close(entropy, torch.full_like(entropy, 6.0).log())


# Switches


@pytest.mark.parametrize("given", [True, False])
def test_the_state_posterior_depends_on_the_category_only_where_asked(given):
    network = group_of(config_of(2, likelihood="gaussian", state_given_category=given)).network
    z_anb = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    one, other = (torch.eye(4, dtype=torch.float64)[k].expand(2, 8, 4) for k in (0, 3))
    for a, b in zip(network.state(z_anb, one), network.state(z_anb, other), strict=True):
        assert torch.equal(a, b) != given


@pytest.mark.parametrize("training", [True, False])
def test_shared_parameters_give_every_arm_the_same_outputs_on_the_same_input(training):
    model = {"likelihood": "zinb", "shared_parameters": True}
    network = group_of(config_of(3, **model)).network.train(training)
    assert all(len(p) == 1 for p in network.parameters())
    x_ang = cells_of("zinb", 1).expand(3, -1, -1)
    encoded = network.encode(x_ang)
    mu_and, log_var_and = network.state(encoded.z_anb, encoded.log_q_ank.exp())
    out_ang = network.decode(mu_and, encoded.log_q_ank.exp())
    loss_a = network.reconstruction(x_ang, mu_and, encoded.log_q_ank.exp())
    for output in (encoded.z_anb, encoded.log_q_ank, mu_and, log_var_and, out_ang, loss_a):
        torch.testing.assert_close(output, output[:1].expand_as(output), rtol=1e-12, atol=1e-12)


def test_arms_with_their_own_parameters_differ_on_the_same_input():
    network = group_of(config_of(3, likelihood="gaussian")).network
    log_q_ank = network.encode(cells_of("gaussian", 1).expand(3, -1, -1)).log_q_ank
    assert not any(torch.allclose(log_q_ank[a], log_q_ank[b], atol=1e-2) for a, b in combinations(range(3), 2))


# What is legal must not yield NaN


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "nb", "zinb"])
@pytest.mark.parametrize(
    ("n_arms", "lam", "n_cells", "switches"),
    [
        (1, 1.0, 16, {}),
        (1, 0.0, 1, {}),
        (2, 0.0, 16, {}),
        (2, 1.0, 1, {}),
        (3, 10.0, 2, {"batch_norm": False}),
        (2, 1.0, 1, {"batch_norm": False, "n_categories": 1}),
        (2, 1.0, 16, {"tau": 0.005}),
        (2, 1.0, 16, {"hidden": ()}),
        (2, 1.0, 1, {"shared_parameters": True, "input_dropout": 0.9}),
    ],
)
def test_training_stays_finite(likelihood, n_arms, lam, n_cells, switches):
    """Real steps in float32; an empty cell among the others."""
    config = config_of(n_arms, lam=lam, lr=0.01, likelihood=likelihood, **switches)
    assert_finite_steps(config, cells_of(likelihood, n_arms, n_cells).float())


@pytest.mark.parametrize("n_arms", [1, 2])
@pytest.mark.parametrize("unused", [(3,), (1, 2, 3), (0, 1, 2, 3)], ids=["one unused", "one used", "all equal"])
@pytest.mark.parametrize("tau", [None, 0.02])
def test_training_stays_finite_with_categories_that_nobody_uses(n_arms, unused, tau, fault_row):
    config = config_of(n_arms, lr=0.01, likelihood="gaussian", tau=tau)

    def kill(network):
        head = network.category_head
        for k in unused:
            head.weight[..., k] = 0.0
            head.bias[..., k] = -1e4

    floored_a = assert_finite_steps(config, cells_of("gaussian", n_arms).float(), kill)
    # At the default temperature even an unused category keeps e^-K of the mass, which varies from cell to cell.
    assert tau is None or (floored_a >= len(unused)).all()
    fault_row(
        "dead categories",
        "one, all but one or all of four are never used, with 1 and 2 arms",
        1,
        "all numbers stay finite",
    )


def assert_finite_steps(config: CplMixVAEConfig, x_ang: Tensor, change=lambda network: None) -> Tensor:
    """Four steps; returns how many categories of each arm were on the floor in the first."""
    x_ang[:, 0] = 0.0
    kind = KIND[config.model.likelihood]
    preparation = Preparation(kind, tuple(f"g{i}" for i in range(N_GENES)), library=LIBRARY)
    group = ArmGroup(config, preparation, tuple(range(config.model.n_arms)), CPU)
    with torch.no_grad():
        change(group.network)
    floored = []
    for step in range(4):
        report, distance = train_step(group, context_of(config), x_ang, step)
        floored.append(report["sigma_floored"])
        for name, value in [*report.items(), ("distance", distance), *group.network.state_dict().items()]:
            assert torch.isfinite(value).all(), (step, name)
        for name, gradient in gradients_of(group).items():
            assert torch.isfinite(gradient).all(), (step, name)
    return floored[0]


def test_with_a_prior_the_mean_posterior_is_compared_with_it():
    """log K - KL(mean posterior || prior): the entropy for a uniform prior, log K where it is as the prior says."""
    log_q = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64).log_softmax(-1)
    uniform = torch.full((4,), 0.25, dtype=torch.float64).log()
    torch.testing.assert_close(marginal_entropy(log_q, uniform), marginal_entropy(log_q))
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = math.log(4) - kl_divergence(Categorical(probs=log_q.exp().mean(1)), Categorical(probs=prior))
    torch.testing.assert_close(marginal_entropy(log_q, prior.log()), expected)
    as_expected = prior.log().expand(1, 9, 4)
    torch.testing.assert_close(marginal_entropy(as_expected, prior.log()), torch.tensor([math.log(4)]).double())
