"""The one-sum form of Eq. 7's coupling: equal to the loop over pairs in value and gradient, wherever the arms are."""

from datetime import timedelta
from itertools import combinations
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.couplings.distances import DSigmaCoupling

FLOOR = 1e-3
TAU = 0.2


def logits_of(n_arms: int, n_cells: int, n_parts: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_arms, n_cells, n_parts, generator=generator, dtype=torch.float64)


def log_posterior(logits_ank: Tensor) -> Tensor:
    """Tempered as in the arms."""
    return torch.log_softmax(torch.softmax(logits_ank, dim=-1) / TAU, dim=-1)


def pairwise_loop(log_q_ank: Tensor, floor: float = FLOOR, sigma_flows: bool = True) -> Tensor:
    """sum_{a<b} E sum_k (log c_ak / sigma_ak - log c_bk / sigma_bk)^2, as it is printed in the paper."""
    total = log_q_ank.new_zeros(())
    for log_p_nk, log_r_nk in combinations(log_q_ank, 2):
        distance_n = torch.zeros_like(log_p_nk[:, 0])
        for k in range(log_q_ank.shape[-1]):
            scaled = []
            for log_q_n in (log_p_nk[:, k], log_r_nk[:, k]):
                q_n = log_q_n.exp()
                variance = (q_n - q_n.mean()).square().mean()
                sigma = variance.sqrt() if variance > floor**2 else torch.tensor(floor, dtype=log_q_n.dtype)
                scaled.append(log_q_n / (sigma if sigma_flows else sigma.detach()))
            distance_n = distance_n + (scaled[0] - scaled[1]).square()
        total = total + distance_n.mean()
    return total


def one_sum(log_q_ank: Tensor, floor: float = FLOOR) -> tuple[Tensor, Tensor]:
    """The package's value, and its surrogate summed over arms."""
    coupling = DSigmaCoupling(log_q_ank.shape[0], floor)
    sent = coupling.send(log_q_ank)
    sum_nk, norm2_total = UnitSum().launch(sent.u_ank, sent.norm2_a).wait()
    return coupling.pairwise(norm2_total, sum_nk), coupling.surrogate(sent, sum_nk).sum()


def slope_of(value: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(value, at)[0]


@pytest.mark.parametrize("n_arms", [1, 2, 3, 5])
@pytest.mark.parametrize(("n_cells", "n_parts"), [(1, 4), (2, 2), (17, 6)])
def test_one_sum_equals_the_loop_over_pairs_in_value_and_gradient(n_arms, n_cells, n_parts):
    logits_ank = logits_of(n_arms, n_cells, n_parts).requires_grad_()
    loop = pairwise_loop(log_posterior(logits_ank))
    value, surrogate = one_sum(log_posterior(logits_ank))
    torch.testing.assert_close(value, loop.detach(), rtol=1e-10, atol=1e-9)
    expected = slope_of(loop, logits_ank) if n_arms > 1 else torch.zeros_like(logits_ank)
    torch.testing.assert_close(slope_of(surrogate, logits_ank), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_arms", [2, 3])
def test_one_sum_equals_the_loop_where_the_floor_bites(n_arms):
    """A category that one arm never uses, and a floor that stops a part of the others too."""
    logits_ank = logits_of(n_arms, 12, 5, seed=1)
    logits_ank[0, :, 2] = -60.0
    logits_ank.requires_grad_()
    spread_ak = log_posterior(logits_ank).detach().exp().std(dim=1, correction=0)
    floor = 1.01 * float(spread_ak.median())  # on neither side of any spread by rounding alone
    loop = pairwise_loop(log_posterior(logits_ank), floor)
    value, surrogate = one_sum(log_posterior(logits_ank), floor)
    torch.testing.assert_close(value, loop.detach())
    torch.testing.assert_close(slope_of(surrogate, logits_ank), slope_of(loop, logits_ank), rtol=1e-9, atol=1e-9)
    floored_a = DSigmaCoupling(n_arms, floor).send(log_posterior(logits_ank)).floored_a
    assert floored_a.tolist() == (spread_ak < floor).sum(-1).tolist()
    assert floored_a[0] >= 1


@pytest.mark.parametrize("n_arms", [2, 3])
def test_the_gradient_flows_through_sigma(n_arms):
    """Were sigma detached, the gradient would be another one: so the equalities above would see it."""
    logits_ank = logits_of(n_arms, 9, 4).requires_grad_()
    detached = slope_of(pairwise_loop(log_posterior(logits_ank), sigma_flows=False), logits_ank)
    ours = slope_of(one_sum(log_posterior(logits_ank))[1], logits_ank)
    assert torch.linalg.vector_norm(ours - detached) > 0.1 * torch.linalg.vector_norm(ours)


@pytest.mark.parametrize("n_arms", [2, 3, 5])
def test_the_surrogates_gradient_is_that_of_finite_differences_of_the_value(n_arms):
    logits_ank = logits_of(n_arms, 5, 3, seed=2).requires_grad_()
    slope_ank = slope_of(one_sum(log_posterior(logits_ank))[1], logits_ank)
    step, numeric = 1e-5, torch.zeros(logits_ank.numel(), dtype=torch.float64)
    with torch.no_grad():
        for i, unit in enumerate(torch.eye(logits_ank.numel(), dtype=torch.float64)):
            move = step * unit.view_as(logits_ank)
            above, below = (one_sum(log_posterior(logits_ank + sign * move))[0] for sign in (1, -1))
            numeric[i] = (above - below) / (2 * step)
    torch.testing.assert_close(slope_ank.flatten(), numeric, rtol=1e-5, atol=1e-5 * float(slope_ank.abs().max()))


def test_the_sum_is_held_constant_even_where_it_carries_a_graph():
    """S comes from a process far away; a graph that it may have nearby must not count twice."""
    logits_ank = logits_of(3, 6, 4).requires_grad_()
    coupling = DSigmaCoupling(3, FLOOR)
    sent = coupling.send(log_posterior(logits_ank))
    with_graph, without = sent.u_ank.sum(0), sent.u_ank.detach().sum(0)
    slopes = [
        torch.autograd.grad(coupling.surrogate(sent, s).sum(), logits_ank, retain_graph=True)[0]
        for s in (with_graph, without)
    ]
    assert torch.equal(*slopes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_cells", "n_parts"), [(1, 1), (1, 7), (2, 3), (33, 10), (256, 115)])
def test_one_arm_has_exactly_no_distance_and_no_gradient(dtype, n_cells, n_parts):
    logits_ank = logits_of(1, n_cells, n_parts).to(dtype).requires_grad_()
    value, surrogate = one_sum(log_posterior(logits_ank))
    assert value == 0
    assert (slope_of(surrogate, logits_ank) == 0).all()


@pytest.mark.parametrize("n_arms", [2, 3, 5])
def test_arms_that_agree_are_at_no_distance_and_feel_no_pull(n_arms):
    logits_ank = logits_of(1, 20, 6).expand(n_arms, -1, -1).clone().requires_grad_()
    value, surrogate = one_sum(log_posterior(logits_ank))
    torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-8)
    torch.testing.assert_close(slope_of(surrogate, logits_ank), torch.zeros_like(logits_ank), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_arms", [2, 4])
def test_a_step_down_the_surrogate_brings_the_arms_together(n_arms):
    logits_ank = logits_of(n_arms, 20, 5, seed=3).requires_grad_()
    before, surrogate = one_sum(log_posterior(logits_ank))
    slope_ank = slope_of(surrogate, logits_ank)
    after, _ = one_sum(log_posterior((logits_ank - 1e-3 * slope_ank / slope_ank.norm()).detach()))
    assert after < before


def test_distance_keeps_float32_precision_relative_to_what_is_subtracted():
    """A sum ||u||^2 - ||S||^2 cancels: what remains is exact to about the rounding of the larger term."""
    logits_ank = logits_of(4, 256, 10, seed=4)
    log_q_ank = log_posterior(logits_ank)
    norm2 = float(DSigmaCoupling(4, FLOOR).send(log_q_ank).norm2_a.sum())
    value, exact = one_sum(log_q_ank.float())[0], one_sum(log_q_ank)[0]
    assert abs(float(value) - float(exact)) <= 1e-5 * 4 * norm2


@pytest.mark.parametrize("n_arms", [1, 2, 5, 9])
@pytest.mark.parametrize(("n_cells", "n_parts"), [(1, 1), (8, 3), (128, 10)])
def test_what_travels_has_the_same_size_whatever_the_number_of_arms(n_arms, n_cells, n_parts):
    sent = DSigmaCoupling(n_arms, FLOOR).send(log_posterior(logits_of(n_arms, n_cells, n_parts)).float())
    pending = UnitSum().launch(sent.u_ank, sent.norm2_a)
    assert pending.buffer.nbytes == 4 * (n_cells * n_parts + 1)
    assert not pending.buffer.requires_grad


# Over processes: each computes its own arms' part, and what it got is compared with one process that has all arms.

LAYOUTS = {
    2: [((0,), (1,)), ((0, 1), (2, 3)), ((0, 1), (2,)), ((0,), (1, 2, 3, 4))],
    3: [((0,), (1,), (2,)), ((0, 1), (2, 3), (4,)), ((0,), (1, 2, 3), (4, 5))],
}
CASES = [(world, layout) for world, layouts in LAYOUTS.items() for layout in layouts]
N_CELLS, N_PARTS, N_INPUTS = 11, 4, 5
TRAFFIC_CELLS = 32


def name_of(case) -> str:
    world, layout = case
    return f"{world} processes with {'+'.join(str(len(arms)) for arms in layout)} arms"


def shared_weights() -> list[Tensor]:
    """A network of one set for all arms, of tensors of unlike shapes, one of which no loss depends on."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(N_INPUTS, N_PARTS), (1, N_PARTS), (3,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def inputs_of(n_arms: int) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randn(n_arms, N_CELLS, N_INPUTS, generator=generator, dtype=torch.float64)


def local_surrogate(logits_ank: Tensor, n_arms: int, unit_sum: UnitSum) -> tuple[Tensor, Tensor]:
    """Value over all arms, and the surrogate of the arms held here."""
    coupling = DSigmaCoupling(n_arms, FLOOR)
    sent = coupling.send(log_posterior(logits_ank))
    pending = unit_sum.launch(sent.u_ank, sent.norm2_a)
    sum_nk, norm2_total = pending.wait()
    return coupling.pairwise(norm2_total, sum_nk), coupling.surrogate(sent, sum_nk).sum()


def worker(rank: int, world: int, folder: str) -> None:
    """One process: all layouts in turn; what it got is left in a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    carried = []
    all_reduce = dist.all_reduce

    def counted(tensor, *args, **kwargs):
        carried.append(tensor.nbytes)
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    results = []
    for layout in LAYOUTS[world]:
        mine, n_arms, unit_sum = list(layout[rank]), sum(map(len, layout)), UnitSum(dist.group.WORLD)
        logits_ank = logits_of(n_arms, N_CELLS, N_PARTS)[mine].requires_grad_()
        value, surrogate = local_surrogate(logits_ank, n_arms, unit_sum)
        surrogate.backward()

        weight, bias, unused = shared_weights()
        shared_value, shared = local_surrogate(inputs_of(n_arms)[mine] @ weight + bias, n_arms, unit_sum)
        shared.backward()
        unit_sum.reduce_gradients([weight, bias, unused])

        carried.clear()
        single_ank = logits_of(n_arms, TRAFFIC_CELLS, N_PARTS).float()[mine].requires_grad_()
        local_surrogate(single_ank, n_arms, unit_sum)[1].backward()
        results.append(
            {
                "value": value,
                "slope": logits_ank.grad,
                "shared_value": shared_value,
                "shared": [weight.grad, bias.grad],
                "unused": unused.grad is not None,
                "carried": list(carried),
            }
        )
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """World size and layout -> what each process got; processes start slowly, so a world serves all its layouts."""
    found = {}
    for world, layouts in LAYOUTS.items():
        folder = tmp_path_factory.mktemp(f"world{world}")
        mp.spawn(worker, (world, str(folder)), nprocs=world)
        ranks = [torch.load(Path(folder, f"{rank}.pt")) for rank in range(world)]
        for i, layout in enumerate(layouts):
            found[world, layout] = [results[i] for results in ranks]
    return found


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_distributed_gradients_are_those_of_one_process(distributed, case):
    n_arms = sum(map(len, case[1]))
    logits_ank = logits_of(n_arms, N_CELLS, N_PARTS).requires_grad_()
    loop = pairwise_loop(log_posterior(logits_ank))
    packed_value, packed = one_sum(log_posterior(logits_ank))
    slope_ank = torch.cat([rank["slope"] for rank in distributed[case]])
    torch.testing.assert_close(slope_ank, slope_of(packed, logits_ank), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(slope_ank, slope_of(loop, logits_ank), rtol=1e-9, atol=1e-9)
    for rank in distributed[case]:
        torch.testing.assert_close(rank["value"], packed_value, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(rank["value"], loop.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_reduced_gradients_of_shared_weights_are_those_of_one_process(distributed, case):
    n_arms = sum(map(len, case[1]))
    weight, bias, _ = shared_weights()
    loop = pairwise_loop(log_posterior(inputs_of(n_arms) @ weight + bias))
    expected = torch.autograd.grad(loop, (weight, bias))
    for rank in distributed[case]:
        torch.testing.assert_close(rank["shared_value"], loop.detach(), rtol=1e-9, atol=1e-9)
        for got, wanted in zip(rank["shared"], expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)
        assert not rank["unused"]
    # Workers whose shared weights move apart would no longer share them: equal to the last bit, not only nearly.
    first, *others = distributed[case]
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first["shared"], other["shared"], strict=True))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_step_carries_one_buffer_forward_and_nothing_backward(distributed, case):
    for rank in distributed[case]:
        assert rank["carried"] == [4 * (TRAFFIC_CELLS * N_PARTS + 1)]


def test_without_a_group_shared_gradients_are_left_alone():
    weight = torch.ones(3, requires_grad=True)
    (2 * weight).sum().backward()
    UnitSum().reduce_gradients([weight])
    assert weight.grad.tolist() == [2.0, 2.0, 2.0]
