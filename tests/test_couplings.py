"""The other couplings: the pairs that they stand for, written out, in value and gradient."""

from itertools import combinations

import pytest
import torch
from test_simplex import aitchison_distance
from torch import Tensor

from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.couplings.coupling import build_coupling

NAMES = ("d_sigma", "aitchison", "euclidean", "agreement")


def logits_of(n_arms: int, n_cells: int = 13, n_parts: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_arms, n_cells, n_parts, generator=generator, dtype=torch.float64)


def one_sum(name: str, log_q_ank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distance, the surrogates, the shares."""
    coupling = build_coupling(name, len(log_q_ank), 1e-3)
    sent = coupling.send(log_q_ank)
    sum_nk, norm2_total = UnitSum().launch(sent.u_ank, sent.norm2_a).wait()
    surrogate_a = coupling.surrogate(sent, sum_nk)
    return coupling.pairwise(norm2_total, sum_nk), surrogate_a, coupling.share(surrogate_a, sum_nk)


def over_pairs(log_q_ank: Tensor, of_pair) -> Tensor:
    return sum((of_pair(p, q).mean() for p, q in combinations(log_q_ank, 2)), log_q_ank.new_zeros(()))


PAIRS = {
    "aitchison": lambda log_p, log_q: aitchison_distance(log_p, log_q).square(),
    "euclidean": lambda log_p, log_q: (log_p.exp() - log_q.exp()).square().sum(-1),
}


@pytest.mark.parametrize("n_arms", [1, 2, 3, 5])
@pytest.mark.parametrize("name", PAIRS)
def test_a_squared_distance_is_the_loop_over_pairs_in_value_and_gradient(name, n_arms):
    logits_ank = logits_of(n_arms).requires_grad_()
    log_q_ank = logits_ank.log_softmax(-1)
    loop = over_pairs(log_q_ank, PAIRS[name])
    value, surrogate_a, share_a = one_sum(name, log_q_ank)
    torch.testing.assert_close(value, loop.detach())
    torch.testing.assert_close(share_a.sum(), loop.detach())
    ours = torch.autograd.grad(surrogate_a.sum(), logits_ank, retain_graph=True)[0]
    expected = torch.autograd.grad(loop, logits_ank)[0] if n_arms > 1 else torch.zeros_like(ours)
    torch.testing.assert_close(ours, expected)


def test_the_agreement_of_two_arms_is_the_log_of_their_inner_product():
    logits_ank = logits_of(2).requires_grad_()
    log_q_ank = logits_ank.log_softmax(-1)
    inner_n = (log_q_ank[0].exp() * log_q_ank[1].exp()).sum(-1)
    value, surrogate_a, share_a = one_sum("agreement", log_q_ank)
    torch.testing.assert_close(share_a.sum(), -inner_n.log().mean().detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(value, 1 - inner_n.mean().detach())
    ours = torch.autograd.grad(surrogate_a.sum(), logits_ank, retain_graph=True)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(-inner_n.log().mean(), logits_ank)[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("n_arms", [3, 5])
def test_in_agreement_an_arm_follows_the_mean_of_the_others_held_constant(n_arms):
    logits_ank = logits_of(n_arms).requires_grad_()
    q_ank = logits_ank.softmax(-1)
    _, surrogate_a, share_a = one_sum("agreement", logits_ank.log_softmax(-1))
    for arm in range(n_arms):
        others_nk = torch.stack([q_ank[b] for b in range(n_arms) if b != arm]).mean(0).detach()
        loss = -(n_arms - 1) * (q_ank[arm] * others_nk).sum(-1).log().mean()
        torch.testing.assert_close(surrogate_a[arm], loss, rtol=1e-6, atol=0)
        torch.testing.assert_close(share_a[arm], loss.detach() / 2, rtol=1e-6, atol=0)
        ours, expected = (torch.autograd.grad(v, logits_ank, retain_graph=True)[0] for v in (surrogate_a[arm], loss))
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-9)
        assert (ours[[b for b in range(n_arms) if b != arm]] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_arm_feels_no_pull(name):
    logits_ank = logits_of(1).requires_grad_()
    value, surrogate_a, share_a = one_sum(name, torch.log_softmax(logits_ank.softmax(-1) / 0.2, dim=-1))
    assert value == 0
    torch.testing.assert_close(share_a, torch.zeros_like(share_a), rtol=0, atol=1e-9)
    if surrogate_a.requires_grad:
        torch.testing.assert_close(
            torch.autograd.grad(surrogate_a.sum(), logits_ank)[0], torch.zeros_like(logits_ank), rtol=0, atol=1e-9
        )


def test_agreement_asks_for_crisp_posteriors_where_a_distance_is_content():
    """Two arms that are equally unsure are at no distance, and would still rather be sure."""
    logits_ank = torch.tensor([[[0.3, 0.0, 0.0]]], dtype=torch.float64).expand(2, -1, -1).clone().requires_grad_()
    for name in ("aitchison", "euclidean"):
        _, surrogate_a, _ = one_sum(name, logits_ank.log_softmax(-1))
        slope = torch.autograd.grad(surrogate_a.sum(), logits_ank, retain_graph=True)[0]
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)
    _, surrogate_a, _ = one_sum("agreement", logits_ank.log_softmax(-1))
    slope = torch.autograd.grad(surrogate_a.sum(), logits_ank)[0]
    assert (slope[..., 0] < 0).all() and (slope[..., 1:] > 0).all()


def test_arms_that_agree_on_nothing_have_a_finite_loss_and_gradient():
    logits_ank = (60 * torch.eye(2, dtype=torch.float32)).unsqueeze(1).requires_grad_()
    _, surrogate_a, _ = one_sum("agreement", logits_ank.log_softmax(-1))
    slope = torch.autograd.grad(surrogate_a.sum(), logits_ank)[0]
    assert torch.isfinite(surrogate_a).all() and torch.isfinite(slope).all()


@pytest.mark.parametrize("name", NAMES)
def test_all_send_one_tensor_of_cells_times_categories(name):
    sent = build_coupling(name, 4, 1e-3).send(logits_of(4).log_softmax(-1).float())
    assert sent.u_ank.shape == (4, 13, 5)
    assert UnitSum().launch(sent.u_ank, sent.norm2_a).buffer.nbytes == 4 * (13 * 5 + 1)
