"""The consensus of the arms (their centre on the simplex), and the exact posterior given independent copies."""

import pytest
import torch
from test_simplex import PARTS, aitchison_distance, generator_of, log_simplices
from torch import Tensor

from cplmix_ray.couplings.simplex import centre, joint_posterior


@pytest.mark.parametrize("n_arms", [1, 2, 5])
def test_centre_is_a_composition_and_of_one_arm_the_arm(n_arms):
    log_q_ank = log_simplices(n_arms * 30, 6, generator_of(6)).view(n_arms, 30, 6)
    centre_nk = centre(log_q_ank)
    assert (centre_nk >= 0).all()
    torch.testing.assert_close(centre_nk.sum(-1), torch.ones(30, dtype=torch.float64))
    if n_arms == 1:
        torch.testing.assert_close(centre_nk, log_q_ank[0].exp())


@pytest.mark.parametrize("n_arms", [2, 3, 5])
@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 10.0])
def test_centre_has_the_least_sum_of_squared_aitchison_distances(n_arms, size):
    """Huygens: sum_a d^2(y, q_a) = sum_a d^2(centre, q_a) + A d^2(y, centre) for every y, so no y does better."""
    generator = generator_of(7)
    # Mild compositions: the centre comes back as probabilities, whose logarithms must not underflow.
    log_q_ank = torch.log_softmax(2 * torch.randn(n_arms, 400, 5, generator=generator, dtype=torch.float64), dim=-1)
    log_centre_nk = centre(log_q_ank).log()
    moved_nk = log_centre_nk + size * torch.randn(400, 5, generator=generator, dtype=torch.float64)
    at_centre_n = aitchison_distance(log_centre_nk, log_q_ank).square().sum(0)
    at_moved_n = aitchison_distance(moved_nk, log_q_ank).square().sum(0)
    assert (at_moved_n > at_centre_n).all()
    excess_n = n_arms * aitchison_distance(moved_nk, log_centre_nk).square()
    torch.testing.assert_close(at_moved_n, at_centre_n + excess_n, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_arms", [1, 2, 5, 12])
@pytest.mark.parametrize("n_parts", PARTS)
def test_centre_is_at_least_the_geometric_mean_of_the_arms_and_of_the_centres_without_one_arm(n_arms, n_parts):
    """A geometric mean of compositions sums to at most one (Hoelder), so normalising it can only raise it.

    The mean of the arms is also the mean of the means without one arm, so the second holds in the same way.
    """
    log_q_ank = log_simplices(n_arms * 100, n_parts, generator_of(20)).view(n_arms, 100, n_parts)
    mean_nk = log_q_ank.mean(0)
    log_centre_nk = mean_nk.log_softmax(-1)
    torch.testing.assert_close(centre(log_q_ank), log_centre_nk.exp())
    assert (log_centre_nk >= mean_nk - 1e-10).all()
    if n_arms > 1:
        without_one = [torch.cat([log_q_ank[:a], log_q_ank[a + 1 :]]).mean(0) for a in range(n_arms)]
        assert (log_centre_nk >= torch.stack(without_one).log_softmax(-1).mean(0) - 1e-10).all()


def gaussian_copies(n_arms: int, n_cells: int, category: int, log_prior_k: Tensor) -> tuple[Tensor, Tensor]:
    """Values of ``n_arms`` independent copies of cells, N(mean of the category, 1), and log p(c|x_a) of each alone."""
    mean_k = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    noise_an = torch.randn(n_arms, n_cells, generator=generator_of(21), dtype=torch.float64)
    log_density_ank = -0.5 * (mean_k[category] + noise_an[:, :, None] - mean_k).square()
    return log_density_ank, torch.log_softmax(log_prior_k + log_density_ank, dim=-1)


@pytest.mark.parametrize("n_arms", [1, 2, 5])
def test_joint_posterior_is_that_of_all_copies_by_bayes_rule(n_arms):
    log_prior_k = torch.tensor([0.9, 0.07, 0.03], dtype=torch.float64).log()
    log_density_ank, log_q_ank = gaussian_copies(n_arms, 50, 2, log_prior_k)
    expected_nk = torch.softmax(log_prior_k + log_density_ank.sum(0), dim=-1)
    torch.testing.assert_close(joint_posterior(log_q_ank, log_prior_k), expected_nk)


def test_joint_posterior_and_centre_of_one_arm_are_the_arm():
    log_q_ank = log_simplices(40, 4, generator_of(22))[None]
    log_prior_k = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log()
    torch.testing.assert_close(joint_posterior(log_q_ank, log_prior_k), log_q_ank[0].exp())
    torch.testing.assert_close(centre(log_q_ank), log_q_ank[0].exp())


def test_more_copies_find_a_rare_type_by_the_joint_posterior_and_lose_it_by_the_centre():
    """Proposition 2 needs q(c|x_1..x_A): with unequal priors it does not hold for the consensus."""
    log_prior_k, rare = torch.tensor([0.9, 0.07, 0.03], dtype=torch.float64).log(), 2
    exact, consensus = [], []
    for n_arms in (1, 2, 4, 8, 12):
        log_q_ank = gaussian_copies(n_arms, 20_000, rare, log_prior_k)[1]
        for found, q_nk in ((exact, joint_posterior(log_q_ank, log_prior_k)), (consensus, centre(log_q_ank))):
            found.append(float((q_nk.argmax(-1) == rare).double().mean()))
    assert exact == sorted(exact)
    assert exact[0] == consensus[0] == pytest.approx(0.002, abs=0.001)
    assert exact[-1] == pytest.approx(0.775, abs=0.015)
    assert consensus == sorted(consensus, reverse=True)
    assert consensus[-1] == 0.0


def test_with_equal_priors_joint_posterior_and_centre_choose_the_same_category():
    log_q_ank = log_simplices(3 * 200, 5, generator_of(23)).view(3, 200, 5)
    joint_nk = joint_posterior(log_q_ank, torch.full((5,), 1 / 5, dtype=torch.float64).log())
    assert torch.equal(joint_nk.argmax(-1), centre(log_q_ank).argmax(-1))
