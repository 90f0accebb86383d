"""Aitchison geometry: closed forms, metric axioms, and the bounds of Proposition 3."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cplmix_ray.couplings.simplex import clr, floored_std

PARTS = (2, 3, 7, 50)


def aitchison_distance(log_p_nk: Tensor, log_q_nk: Tensor) -> Tensor:
    """Exact Aitchison distance ||clr(p) - clr(q)||, shape (...)."""
    return torch.linalg.vector_norm(clr(log_p_nk) - clr(log_q_nk), dim=-1)


def d_sigma_squared(log_p_nk: Tensor, log_q_nk: Tensor, sigma_p_k: Tensor, sigma_q_k: Tensor) -> Tensor:
    """sum_k (log p_k / sigma_pk - log q_k / sigma_qk)^2, the distance in Eq. 7; shape (...)."""
    return (log_p_nk / sigma_p_k - log_q_nk / sigma_q_k).square().sum(dim=-1)


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_simplices(n: int, n_parts: int, generator: torch.Generator) -> Tensor:
    """Logarithms of n random compositions, from nearly uniform ones to ones near a corner; float64."""
    spread_n1 = 10.0 ** (2.5 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 1.0)
    return torch.log_softmax(spread_n1 * torch.randn(n, n_parts, generator=generator, dtype=torch.float64), dim=-1)


def random_sigma(n: int, n_parts: int, generator: torch.Generator) -> Tensor:
    """Standard deviations from the usual floor to 1/2, the largest that a number in [0, 1] can have."""
    return 10.0 ** (math.log10(0.5) - 2.7 * torch.rand(n, n_parts, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("n_parts", PARTS)
def test_clr_sums_to_zero(n_parts):
    log_q_nk = log_simplices(200, n_parts, generator_of(0))
    torch.testing.assert_close(clr(log_q_nk).sum(-1), torch.zeros(200, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_parts", PARTS)
def test_clr_does_not_see_the_scale_of_a_composition(n_parts):
    generator = generator_of(1)
    q_nk = log_simplices(200, n_parts, generator).exp().clamp_min(1e-30)
    scale_n1 = 1e3 * torch.rand(200, 1, generator=generator, dtype=torch.float64) + 1e-3
    torch.testing.assert_close(clr((scale_n1 * q_nk).log()), clr(q_nk.log()), rtol=0, atol=1e-11)


def test_clr_is_the_logarithm_over_the_geometric_mean():
    q_k = np.array([0.5, 0.2, 0.3])
    expected = np.log(q_k / np.prod(q_k) ** (1 / 3))
    np.testing.assert_allclose(clr(torch.tensor(q_k).log()), expected, atol=1e-15)


@pytest.mark.parametrize("n_parts", PARTS)
def test_aitchison_distance_is_a_metric(n_parts):
    generator = generator_of(2)
    p, q, r = (log_simplices(500, n_parts, generator) for _ in range(3))
    pq, qr, pr = aitchison_distance(p, q), aitchison_distance(q, r), aitchison_distance(p, r)
    assert (aitchison_distance(p, p) == 0).all()
    assert (pq > 0).all()
    torch.testing.assert_close(pq, aitchison_distance(q, p))
    assert (pr <= (pq + qr) * (1 + 1e-12)).all()


@pytest.mark.parametrize("n_parts", PARTS)
def test_aitchison_distance_is_invariant_to_scale_permutation_and_perturbation(n_parts):
    generator = generator_of(3)
    p, q, shift = (log_simplices(200, n_parts, generator) for _ in range(3))
    distance_n = aitchison_distance(p, q)
    scale_n1 = torch.randn(200, 1, generator=generator, dtype=torch.float64)
    order = torch.randperm(n_parts, generator=generator)
    torch.testing.assert_close(aitchison_distance(p + scale_n1, q - 3.0), distance_n)
    torch.testing.assert_close(aitchison_distance(p[:, order], q[:, order]), distance_n)
    # Perturbation, the simplex's translation: both compositions are multiplied by the same one.
    torch.testing.assert_close(aitchison_distance(p + shift, q + shift), distance_n)


def test_aitchison_distance_of_two_parts_has_a_closed_form():
    """With K = 2, clr(p) = (l, -l)/2 where l = log(p1/p2), so the distance is |l_p - l_q| / sqrt(2)."""
    generator = generator_of(4)
    p, q = log_simplices(300, 2, generator), log_simplices(300, 2, generator)
    expected_n = ((p[:, 0] - p[:, 1]) - (q[:, 0] - q[:, 1])).abs() / math.sqrt(2)
    torch.testing.assert_close(aitchison_distance(p, q), expected_n)


@pytest.mark.parametrize("n_parts", PARTS)
def test_aitchison_distance_is_that_of_all_pairwise_log_ratios(n_parts):
    """Aitchison's own definition: (1/K) sum_{i<j} (log p_i/p_j - log q_i/q_j)^2."""
    generator = generator_of(5)
    p, q = log_simplices(50, n_parts, generator), log_simplices(50, n_parts, generator)
    ratio_nkk = (p[:, :, None] - p[:, None, :]) - (q[:, :, None] - q[:, None, :])
    expected_n = (ratio_nkk.square().sum((1, 2)) / (2 * n_parts)).sqrt()
    torch.testing.assert_close(aitchison_distance(p, q), expected_n)


@pytest.mark.parametrize("n_parts", PARTS)
def test_d_sigma_of_unit_sigma_is_never_less_than_aitchison(n_parts):
    """||v||^2 = ||P v||^2 + K mean(v)^2: they differ by the component that centring removes, and by nothing else."""
    generator = generator_of(8)
    p, q = log_simplices(500, n_parts, generator), log_simplices(500, n_parts, generator)
    one_k = torch.ones(n_parts, dtype=torch.float64)
    d2_sigma_n, d2_n = d_sigma_squared(p, q, one_k, one_k), aitchison_distance(p, q).square()
    assert (d2_sigma_n >= d2_n * (1 - 1e-12)).all()
    torch.testing.assert_close(d2_sigma_n, d2_n + n_parts * (p - q).mean(-1).square())


def test_d_sigma_is_its_definition():
    """Eq. 7's distance by an explicit loop over parts, in plain numbers."""
    p, q, sigma_p, sigma_q = [0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.2, 0.1, 0.05], [0.3, 0.4, 0.01]
    expected = sum((math.log(a) / s - math.log(b) / t) ** 2 for a, b, s, t in zip(p, q, sigma_p, sigma_q, strict=True))
    p, q, sigma_p, sigma_q = (torch.tensor(values, dtype=torch.float64) for values in (p, q, sigma_p, sigma_q))
    assert float(d_sigma_squared(p.log(), q.log(), sigma_p, sigma_q)) == pytest.approx(expected, rel=1e-13)


def terms_of_proposition_3(
    log_p_nk: Tensor, log_q_nk: Tensor, sigma_p_k: Tensor, sigma_q_k: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """d_sigma^2, d_A, v = log p - log q and g = u_p - u_q - v, with u the logarithm divided by sigma."""
    v_nk = log_p_nk - log_q_nk
    g_nk = log_p_nk / sigma_p_k - log_q_nk / sigma_q_k - v_nk
    d2_sigma_n = d_sigma_squared(log_p_nk, log_q_nk, sigma_p_k, sigma_q_k)
    return d2_sigma_n, aitchison_distance(log_p_nk, log_q_nk), v_nk, g_nk


def test_d_sigma_and_aitchison_bound_each_other():
    """Proposition 3, corrected: (d_A - ||g - mean(g)||)^2 <= d_sigma^2 <= d_A^2 + K (max|v| + max|g|)^2.

    d_sigma = ||v + g||, and d_A = ||P v|| with P = I - 11'/K, which centres and is an orthogonal projection.

    - A projection never lengthens: d_sigma >= ||P v + P g||, which is at least the difference of ||P v|| and ||P g||.
    - ||v + g||^2 = ||P (v + g)||^2 + K mean(v + g)^2, and every entry of v + g is at most max|v| + max|g|.
    - Tighter: v = P v + mean(v) 1 and ||1|| = sqrt(K), so d_sigma <= d_A + sqrt(K) |mean v| + ||g||.
    """
    norm = torch.linalg.vector_norm
    for n_parts in range(2, 51):
        generator = generator_of(100 + n_parts)
        log_p, log_q = log_simplices(200, n_parts, generator), log_simplices(200, n_parts, generator)
        sigma_p, sigma_q = random_sigma(200, n_parts, generator), random_sigma(200, n_parts, generator)
        d2_sigma, d_a, v, g = terms_of_proposition_3(log_p, log_q, sigma_p, sigma_q)
        d_sigma, largest = d2_sigma.sqrt(), v.abs().amax(-1) + g.abs().amax(-1)
        slack = 1e-12 * (1 + norm(v, dim=-1) + norm(g, dim=-1))
        assert ((d_a - norm(clr(g), dim=-1)).abs() <= d_sigma + slack).all(), n_parts
        assert (d2_sigma <= (d_a.square() + n_parts * largest.square()) * (1 + 1e-12)).all(), n_parts
        assert (norm(clr(v + g), dim=-1) <= d_sigma + slack).all(), n_parts
        assert (d_sigma <= d_a + math.sqrt(n_parts) * v.mean(-1).abs() + norm(g, dim=-1) + slack).all(), n_parts
        assert (d2_sigma <= n_parts * largest.square() * (1 + 1e-12)).all(), n_parts


def test_proposition_3_as_printed_has_a_counterexample():
    """Its tau_c is the largest log-ratio without the absolute value.

    With sigma = 1, p = (1 - e, e) and q = (1/2, 1/2), g = 0 and tau_c = log(2 (1 - e)) < log 2, while
    d_sigma^2 - d_A^2 = 2 mean(v)^2 grows without bound as e -> 0.
    """
    e_n = 10.0 ** -torch.tensor([1.0, 3.0, 10.0, 100.0, 300.0], dtype=torch.float64)
    log_p = torch.stack([torch.log1p(-e_n), e_n.log()], dim=-1)
    log_q = torch.full((len(e_n), 2), 0.5, dtype=torch.float64).log()
    one_k = torch.ones(2, dtype=torch.float64)
    d2_sigma, d_a, v, g = terms_of_proposition_3(log_p, log_q, one_k, one_k)
    assert (g == 0).all()
    excess, printed, corrected = d2_sigma - d_a.square(), 2 * v.amax(-1).square(), 2 * v.abs().amax(-1).square()
    assert (printed <= 2 * math.log(2) ** 2).all()
    assert (excess > printed).tolist() == [False, True, True, True, True]
    assert float(excess[-1]) > 2e5
    assert (excess <= corrected).all()


@pytest.mark.parametrize("n_parts", [2, 5])
def test_the_bounds_are_attained(n_parts):
    """With sigma = 1, g = 0; a permuted composition has mean v = 0, and then d_sigma is the Aitchison distance."""
    generator = generator_of(9)
    log_p = log_simplices(50, n_parts, generator)
    one_k = torch.ones(n_parts, dtype=torch.float64)
    log_q = log_p.roll(1, dims=-1)
    torch.testing.assert_close(
        d_sigma_squared(log_p, log_q, one_k, one_k).sqrt(), aitchison_distance(log_p, log_q), rtol=1e-10, atol=1e-12
    )


def test_standard_deviation_of_two_kinds_of_cells_is_half_their_difference():
    low, high = torch.tensor([0.1, 0.5, 0.4]), torch.tensor([0.7, 0.1, 0.2])
    q_nk = torch.stack([low, high] * 8).double()
    sigma_1k, floored = floored_std(q_nk, 1e-3)
    torch.testing.assert_close(sigma_1k, ((high - low).abs() / 2).double()[None])
    assert int(floored) == 0


def test_standard_deviation_is_each_arms_own():
    q_ank = log_simplices(4 * 30, 6, generator_of(10)).exp().view(4, 30, 6)
    sigma_a1k, floored_a = floored_std(q_ank, 1e-6)
    assert sigma_a1k.shape == (4, 1, 6)
    np.testing.assert_allclose(sigma_a1k, q_ank.numpy().std(axis=1, keepdims=True), rtol=1e-12)
    assert floored_a.tolist() == [0, 0, 0, 0]


def test_the_floor_bites_for_a_dead_category_and_for_no_other():
    q_ank = torch.rand(2, 20, 4, generator=generator_of(11), dtype=torch.float64)
    q_ank[1, :, 2] = 0.0
    sigma_a1k, floored_a = floored_std(q_ank, 1e-3)
    assert floored_a.tolist() == [0, 1]
    assert float(sigma_a1k[1, 0, 2]) == pytest.approx(1e-3, rel=1e-12)
    others = torch.arange(4) != 2
    np.testing.assert_allclose(sigma_a1k[1, 0, others], q_ank[1, :, others].numpy().std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_floor_bites_everywhere_for_a_minibatch_of_one_cell(dtype):
    q_ank = torch.tensor([[[0.2, 0.3, 0.5]], [[1.0, 0.0, 0.0]]], dtype=dtype)
    sigma_a1k, floored_a = floored_std(q_ank, 1e-3)
    assert floored_a.tolist() == [3, 3]
    torch.testing.assert_close(sigma_a1k, torch.full((2, 1, 3), 1e-3, dtype=dtype))


def test_gradient_of_sigma_is_that_of_a_standard_deviation_and_zero_on_the_floor():
    """d sigma_k / d q_nk = (q_nk - mean_k) / (n sigma_k)."""
    q_nk = torch.rand(9, 3, generator=generator_of(12), dtype=torch.float64)
    q_nk[:, 1] = 0.25
    q_nk.requires_grad_()
    sigma_1k, _ = floored_std(q_nk, 1e-3)
    (slope_nk,) = torch.autograd.grad(sigma_1k.sum(), q_nk)
    with torch.no_grad():
        expected_nk = (q_nk - q_nk.mean(0)) / (9 * sigma_1k)
        expected_nk[:, 1] = 0.0
    torch.testing.assert_close(slope_nk, expected_nk)


@pytest.mark.parametrize("n_cells", [1, 2, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_through_a_dead_category_are_finite(n_cells, dtype):
    """The root has no finite slope at zero; a floor put on after the root would give NaN here."""
    logits_nk = torch.randn(n_cells, 4, generator=generator_of(13), dtype=dtype)
    logits_nk[:, 3] = -40.0
    logits_nk.requires_grad_()
    log_q_nk = torch.log_softmax(logits_nk, dim=-1)
    sigma_1k, _ = floored_std(log_q_nk.exp(), 1e-3)
    (slope_nk,) = torch.autograd.grad((log_q_nk / sigma_1k).square().sum(-1).mean(), logits_nk)
    assert torch.isfinite(slope_nk).all()


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
def test_distances_take_any_leading_shape(shape):
    generator = generator_of(14)
    p, q = (torch.randn(shape, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    one_k = torch.ones(3, dtype=torch.float64)
    assert aitchison_distance(p, q).shape == d_sigma_squared(p, q, one_k, one_k).shape == shape[:-1]
