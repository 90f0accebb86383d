"""Likelihoods: they are probabilities, their moments and limits are right, and nothing is ever NaN."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, NegativeBinomial, Normal, Poisson

from cplmix_ray.distributions.likelihood import LIKELIHOODS
from cplmix_ray.distributions.negative_binomial import nb_log_prob, zinb_log_prob

NAMES = ("bernoulli", "gaussian", "nb", "zinb")
COUNTS = ("nb", "zinb")
MOMENTS = [(0.05, 0.3), (0.7, 5.0), (3.0, 0.2), (3.0, 40.0), (50.0, 1.5), (50.0, 400.0)]
"""(mu, theta), from a rare, scattered gene to an abundant and almost Poisson one."""


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(name: str, n_arms: int = 2, n_cells: int = 3, n_genes: int = 4, seed: int = 0) -> tuple[Tensor, ...]:
    """Cells that fit the likelihood, decoder output and dispersion; float64."""
    generator, shape = generator_of(seed), (n_arms, n_cells, n_genes)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    x_ang = {"bernoulli": uniform, "gaussian": 3 * uniform - 1}.get(name, (12 * uniform.square()).floor())
    heads = LIKELIHOODS[name].heads
    out_ang = torch.randn(n_arms, n_cells, heads * n_genes, generator=generator, dtype=torch.float64)
    log_theta_a1g = torch.randn(n_arms, 1, n_genes, generator=generator, dtype=torch.float64)
    return x_ang, out_ang, log_theta_a1g


def tensor(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def pmf(mu: float, theta: float, zero_logit: float | None = None, n: int = 20_000) -> tuple[Tensor, Tensor]:
    """Counts 0..n-1, far beyond where any mass is left, and their probabilities."""
    x = torch.arange(n, dtype=torch.float64)
    if zero_logit is None:
        return x, nb_log_prob(x, tensor(mu).log(), tensor(theta).log()).exp()
    return x, zinb_log_prob(x, tensor(mu).log(), tensor(theta).log(), tensor(zero_logit)).exp()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    x_ang, out_ang, log_theta_a1g = draw(name)
    likelihood = LIKELIHOODS[name]
    inputs = (out_ang.requires_grad_(),)
    if likelihood.has_dispersion:
        inputs = (*inputs, log_theta_a1g.requires_grad_())

    def log_prob(out, log_theta=None):
        return likelihood.log_prob(x_ang, out, log_theta)

    assert torch.autograd.gradcheck(log_prob, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_log_prob_is_one_number_a_cell_and_cells_do_not_mix(name):
    x_ang, out_ang, log_theta_a1g = draw(name, n_cells=5)
    log_p_an = LIKELIHOODS[name].log_prob(x_ang, out_ang, log_theta_a1g)
    assert log_p_an.shape == (2, 5)
    for arm in range(2):
        for cell in range(5):
            alone = LIKELIHOODS[name].log_prob(
                x_ang[arm : arm + 1, cell : cell + 1],
                out_ang[arm : arm + 1, cell : cell + 1],
                log_theta_a1g[arm : arm + 1],
            )
            torch.testing.assert_close(alone[0, 0], log_p_an[arm, cell])


@pytest.mark.parametrize(("mu", "theta"), MOMENTS)
def test_negative_binomial_probabilities_sum_to_one(mu, theta):
    _, p = pmf(mu, theta)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("mu", "theta"), MOMENTS)
@pytest.mark.parametrize("zero_logit", [-3.0, 0.0, 2.0])
def test_zero_inflated_probabilities_sum_to_one(mu, theta, zero_logit):
    x, p = pmf(mu, theta, zero_logit)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    extra = 1 / (1 + np.exp(-zero_logit))
    assert float((x * p).sum()) == pytest.approx((1 - extra) * mu, rel=1e-8)
    assert float(p[0]) == pytest.approx(extra + (1 - extra) * float(pmf(mu, theta)[1][0]), rel=1e-12)


@pytest.mark.parametrize(("mu", "theta"), MOMENTS)
def test_negative_binomial_has_mean_mu_and_variance_mu_plus_mu_squared_over_theta(mu, theta):
    x, p = pmf(mu, theta)
    mean = float((x * p).sum())
    assert mean == pytest.approx(mu, rel=1e-8)
    assert float(((x - mean).square() * p).sum()) == pytest.approx(mu + mu * mu / theta, rel=1e-7)


@pytest.mark.parametrize(("mu", "theta"), MOMENTS)
def test_negative_binomial_is_that_of_scipy(mu, theta):
    x = np.array([0, 1, 2, 5, 17, 100, 1000])
    expected = scipy.stats.nbinom(theta, theta / (theta + mu)).logpmf(x)
    log_p = nb_log_prob(torch.tensor(x, dtype=torch.float64), tensor(mu).log(), tensor(theta).log())
    np.testing.assert_allclose(log_p, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mu", [0.1, 2.0, 30.0])
def test_negative_binomial_tends_to_poisson_at_first_order_in_one_over_theta(mu):
    """log NB - log Poisson = (x - (x - mu)^2) / (2 theta) + O(theta^-2), from the expansion in 1 / theta."""
    x = torch.arange(60, dtype=torch.float64)
    poisson = Poisson(tensor(mu)).log_prob(x)
    for theta in (1e4, 1e5, 1e6):
        difference = nb_log_prob(x, tensor(mu).log(), tensor(theta).log()) - poisson
        expected = ((x - mu).square() - x) / (2 * theta)
        # What is left is of second order, and cubic in the counts.
        torch.testing.assert_close(difference, expected, rtol=0, atol=60.0**3 / theta**2 + 1e-14 * theta)


@pytest.mark.parametrize(("mu", "theta"), MOMENTS)
def test_zero_inflated_without_extra_zeros_is_the_negative_binomial(mu, theta):
    x = torch.arange(200, dtype=torch.float64)
    log_mu, log_theta = tensor(mu).log(), tensor(theta).log()
    torch.testing.assert_close(
        zinb_log_prob(x, log_mu, log_theta, tensor(-500.0)), nb_log_prob(x, log_mu, log_theta), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_shares_of_the_cells_library(name):
    """Sum over genes of independent negative binomials with mean library * softmax(logits), by torch's own."""
    x_ang, out_ang, log_theta_a1g = draw(name, n_cells=6, seed=1)
    x_ang[0, 0] = 0.0  # a cell without counts is given a library of one
    library_an1 = x_ang.sum(-1, keepdim=True).clamp_min(1.0)
    mu_ang = library_an1 * torch.softmax(out_ang[..., :4], dim=-1)
    theta_ang = log_theta_a1g.exp().expand_as(mu_ang)
    per_gene = NegativeBinomial(theta_ang, logits=mu_ang.log() - theta_ang.log()).log_prob(x_ang)
    expected_mean = mu_ang
    if name == "zinb":
        extra_ang = torch.sigmoid(out_ang[..., 4:])
        per_gene = ((x_ang == 0) * extra_ang + (1 - extra_ang) * per_gene.exp()).log()
        expected_mean = (1 - extra_ang) * mu_ang
    likelihood = LIKELIHOODS[name]
    torch.testing.assert_close(likelihood.log_prob(x_ang, out_ang, log_theta_a1g), per_gene.sum(-1))
    torch.testing.assert_close(likelihood.mean(x_ang, out_ang), expected_mean)


def test_depth_is_no_matter_of_the_decoder():
    """The expected cell scales with the library, so the same output fits a cell sequenced ten times as deeply."""
    x_ang, out_ang, _ = draw("nb", seed=2)
    x_ang[..., 0] += 1.0
    mean_ang = LIKELIHOODS["nb"].mean(x_ang, out_ang)
    torch.testing.assert_close(mean_ang.sum(-1), x_ang.sum(-1))
    torch.testing.assert_close(LIKELIHOODS["nb"].mean(10 * x_ang, out_ang), 10 * mean_ang)


def test_gaussian_is_that_of_torch():
    x_ang, out_ang, _ = draw("gaussian", seed=3)
    expected = Independent(Normal(out_ang, 1.0), 1).log_prob(x_ang)
    torch.testing.assert_close(LIKELIHOODS["gaussian"].log_prob(x_ang, out_ang, None), expected)
    torch.testing.assert_close(LIKELIHOODS["gaussian"].mean(x_ang, out_ang), out_ang)


def test_bernoulli_is_that_of_torch_for_binary_pixels():
    x_ang, out_ang, _ = draw("bernoulli", seed=4)
    x_ang = x_ang.round()
    expected = Independent(Bernoulli(logits=out_ang), 1).log_prob(x_ang)
    torch.testing.assert_close(LIKELIHOODS["bernoulli"].log_prob(x_ang, out_ang, None), expected)
    torch.testing.assert_close(LIKELIHOODS["bernoulli"].mean(x_ang, out_ang), Bernoulli(logits=out_ang).mean)


def test_a_grey_pixel_is_a_mixture_of_black_and_white():
    x_ang, out_ang, _ = draw("bernoulli", seed=5)
    coin = Bernoulli(logits=out_ang)
    one, zero = coin.log_prob(torch.ones_like(x_ang)), coin.log_prob(torch.zeros_like(x_ang))
    expected = (x_ang * one + (1 - x_ang) * zero).sum(-1)
    torch.testing.assert_close(LIKELIHOODS["bernoulli"].log_prob(x_ang, out_ang, None), expected)


def cells_at_the_edge(name: str) -> dict[str, Tensor]:
    """Minibatches of one arm, five cells and four genes, float32."""
    cells = {"zero": torch.zeros(1, 5, 4)}
    if name == "bernoulli":
        cells["one"] = torch.ones(1, 5, 4)
    else:
        cells["large"] = torch.full((1, 5, 4), 1e6)
        cells["mixed"] = torch.tensor([0.0, 1.0, 0.0, 1e6]).expand(1, 5, 4).clone()
    return cells


def outputs_at_the_edge(heads: int) -> dict[str, Tensor]:
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0] * heads).expand(1, 5, 4 * heads)
    return {
        "zero": torch.zeros(1, 5, 4 * heads),
        "low": torch.full((1, 5, 4 * heads), -1e4),
        "high": torch.full((1, 5, 4 * heads), 1e4),
        "both": 1e4 * signs,
        "moderate": 60.0 * signs,
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("log_theta", [-12.0, 0.0, 10.0])
def test_values_and_gradients_are_finite_for_empty_cells_large_counts_and_extreme_outputs(name, log_theta):
    likelihood = LIKELIHOODS[name]
    for kind, x_ang in cells_at_the_edge(name).items():
        for size, out_ang in outputs_at_the_edge(likelihood.heads).items():
            out_ang = out_ang.clone().requires_grad_()
            log_theta_a1g = torch.full((1, 1, 4), log_theta, requires_grad=True)
            log_p_an = likelihood.log_prob(x_ang, out_ang, log_theta_a1g)
            slopes = torch.autograd.grad(log_p_an.sum(), (out_ang, log_theta_a1g), allow_unused=True)
            for what in (log_p_an, likelihood.mean(x_ang, out_ang), *(s for s in slopes if s is not None)):
                assert torch.isfinite(what).all(), (kind, size)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("log_theta", [-100.0, -30.0, 30.0, 100.0])
def test_no_dispersion_however_far_it_has_drifted_gives_nan(name, log_theta):
    """Nothing bounds the parameter: a Poisson-like gene drives it up for as long as training lasts."""
    x_ang, out_ang, _ = (t.float() for t in draw(name, seed=6))
    out_ang.requires_grad_()
    log_theta_a1g = torch.full((2, 1, 4), log_theta, requires_grad=True)
    log_p_an = LIKELIHOODS[name].log_prob(x_ang, out_ang, log_theta_a1g)
    slopes = torch.autograd.grad(log_p_an.sum(), (out_ang, log_theta_a1g))
    for what in (log_p_an, *slopes):
        assert torch.isfinite(what).all()


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("log_theta", [-8.0, -3.0, 0.0, 4.0, 8.0, 10.0, 12.0, 15.0, 20.0])
def test_float32_stays_close_to_float64_up_to_the_poisson_limit(name, log_theta):
    """lgamma(x + theta) - lgamma(theta) cancels for large theta; values and slopes must not turn to noise."""
    generator = generator_of(7)
    x_ang = torch.poisson(torch.full((1, 64, 5), 3.0), generator=generator)
    heads = LIKELIHOODS[name].heads
    out_ang = 0.3 * torch.randn(1, 64, 5 * heads, generator=generator)

    def evaluate(dtype):
        parameter = torch.full((1, 1, 5), log_theta, dtype=dtype, requires_grad=True)
        log_p_an = LIKELIHOODS[name].log_prob(x_ang.to(dtype), out_ang.to(dtype), parameter)
        (slope_a1g,) = torch.autograd.grad(log_p_an.mean(), parameter)
        return log_p_an.detach().double(), slope_a1g.double()

    (value, slope), (exact_value, exact_slope) = evaluate(torch.float32), evaluate(torch.float64)
    torch.testing.assert_close(value, exact_value, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(slope, exact_slope, rtol=1e-3, atol=1e-3)
