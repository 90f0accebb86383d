"""What a step costs, counted and not timed, so that it holds on any machine; and that the plain step, with which it is
compared, computes the same."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cplmix_ray.benchmarks.speed import plain_step
from cplmix_ray.benchmarks.speed.case import Shape
from cplmix_ray.benchmarks.speed.package_step import PackageStep, random_values, training_set
from cplmix_ray.benchmarks.speed.plain_step import PlainStep
from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.models.cplmixvae import training_step as trainer_step
from cplmix_ray.models.cplmixvae.training_step import augmented_batch
from cplmix_ray.nn import dense_rows as dense

CPU = torch.device("cpu")
SMALL = {"cells": 512, "genes": 600, "n_categories": 12, "hidden": (47, 47)}
"""Dense products are taken on whole numbers of 16 columns: 47 of them, and 48 with the offset, become few more."""
DENSITIES = [1.0, 0.1]


def prepared(shape: Shape, kind="log", **settings):
    """A step that has been taken once, so that what is made once is there, and the cells of the next."""
    values_ng = random_values(shape)
    if kind == "counts":
        values_ng = np.ceil(values_ng) if shape.density == 1 else values_ng.ceil()
    if kind == "images":
        values_ng = (values_ng > 1).astype(np.float32)
    ours = PackageStep(shape, training_set(shape, values_ng, kind), CPU, **settings)
    cells = augmented_batch(ours.group, ours.step_context, np.arange(shape.cells)).rows
    ours.train(cells)
    return ours, cells


class Watch(TorchDispatchMode):
    """Looks at every operation that torch is asked for, the backward pass's included."""

    def __init__(self):
        super().__init__()
        self.calls, self.met, self.carried = Counter(), [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
        if func.namespace == "c10d":
            self.carried += sum(each.nbytes for each in tree_leaves(args) if isinstance(each, torch.Tensor))
        else:
            self.calls[func] += 1
            self.met += [(str(func), each.untyped_storage()) for each in tensors]
        return out


def watched(ours: PackageStep, cells) -> Watch:
    with Watch() as watch:
        ours.train(cells)
    return watch


@pytest.mark.parametrize("density", DENSITIES)
def test_a_step_asks_for_few_operations_and_as_many_more_for_each_arm(density):
    """Each takes microseconds before it computes anything; 695 and 131 an arm were counted when this was written."""
    counts = [
        watched(*prepared(Shape(**SMALL, n_arms=n_arms, density=density))).calls.total() for n_arms in (1, 2, 3, 4)
    ]
    more = set(np.diff(counts))
    assert counts[0] < 790, counts
    assert len(more) == 1, f"arms are not alike, or are compared pair by pair: {counts}"
    assert more.pop() < 150, counts


def counted_flop(ours: PackageStep, cells) -> float:
    """torch's own count of multiplications and additions, and of the two kinds of product that it leaves out."""
    aten = torch.ops.aten

    def bag(table, indices, *_, out_shape=None, **__):
        return 2 * indices[0] * table[1]

    def added(_, left, right, *__, out_shape=None, **___):
        return 2 * left[0] * left[1] * right[1]

    mapping = {aten._embedding_bag_forward_only: bag, aten._embedding_bag: bag, aten.addmm_: added}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        ours.train(cells)
    return counter.get_total_flops()


@pytest.mark.parametrize("n_arms", [1, 2, 3])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("density", DENSITIES)
def test_a_step_takes_the_arithmetic_that_is_needed(n_arms, dropout, density):
    """Within 5 percent, for the means over a minibatch, which are products too, and the columns that fill up; one more
    product of cells and genes would be 7 percent in sparse cells and 20 in dense ones."""
    shape = Shape(**SMALL, n_arms=n_arms, density=density, dropout=dropout)
    ours, cells = prepared(shape)
    if density < 1:
        filled = sum(len(x.values) for x in cells) / (n_arms * shape.cells * shape.genes)
        shape = Shape(**SMALL, n_arms=n_arms, density=filled, dropout=dropout)
    assert counted_flop(ours, cells) == pytest.approx(shape.needed_flop(), rel=0.05)


def test_the_plain_step_takes_the_arithmetic_that_is_said():
    shape = Shape(**SMALL, n_arms=3)
    values_ng = torch.from_numpy(random_values(shape))
    plain, idx_n = PlainStep(shape, values_ng), torch.arange(shape.cells)
    with FlopCounterMode(display=False) as counter:
        plain(idx_n)
    assert counter.get_total_flops() == pytest.approx(shape.plain_flop(), rel=1e-6)


CASES = [
    ("log", "gaussian", 1.0),
    ("log", "gaussian", 0.1),
    ("counts", "nb", 0.1),
    ("counts", "zinb", 0.1),
    ("images", "bernoulli", 1.0),
]


@pytest.mark.parametrize(("kind", "likelihood", "density"), CASES, ids=[f"{c[1]}-{c[2]:g}" for c in CASES])
def test_a_step_meets_nothing_as_large_as_cells_x_genes_but_the_cells(kind, likelihood, density, monkeypatch):
    """By bytes: a mask of a byte a value is a quarter of it. Many cells, so that the weights are much smaller."""
    shape = Shape(cells=512, genes=600, n_categories=6, hidden=(31, 31), density=density)
    monkeypatch.setattr(dense, "BLOCK", 20 * shape.genes)
    ours, cells = prepared(shape, kind, likelihood=likelihood)
    # Dense cells stay in their matrix; what copies or a scaling have made of them would be theirs.
    own = {x.x_ng.untyped_storage().data_ptr() for x in cells if hasattr(x, "x_ng")}
    met = [(storage.nbytes(), name) for name, storage in watched(ours, cells).met if storage.data_ptr() not in own]
    assert max(met) < (0.5 * 4 * shape.cells * shape.genes, ""), max(met)


@pytest.fixture
def alone_in_a_group():
    """Enough to see what is sent; that what comes back is right is for the tests of the coupling and the engines."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize(("n_arms", "here"), [(1, [0]), (2, [0]), (2, [0, 1]), (5, [3]), (5, [1, 2, 3])])
def test_a_worker_sends_one_number_a_cell_and_category_and_one_more(alone_in_a_group, n_arms, here):
    shape = Shape(**SMALL, n_arms=n_arms)
    unit_sum = UnitSum(alone_in_a_group)
    watch = watched(*prepared(shape, arms=here, unit_sum=unit_sum))
    assert watch.carried == unit_sum.sent == 4 * (shape.cells * shape.n_categories + 1)


def pairs_of(ours: PackageStep, plain: PlainStep, of):
    """The arms' weights, or what ``of`` makes of them, beside those of the plain arms."""
    network = ours.group.network
    for a, arm in enumerate(plain.arms):
        for packed, layers in ((network.encoder, arm.encoder), (network.decoder, arm.decoder)):
            for i, (linear, norm) in enumerate(zip(packed.linears, packed.norms, strict=True)):
                yield of(linear.weight)[a].T, of(layers[3 * i].weight)
                yield of(norm.weight)[a, 0], of(layers[3 * i + 1].weight)
                yield of(norm.bias)[a, 0], of(layers[3 * i + 1].bias)
        for packed, linear in ((network.category_head, arm.category), (network.state_head, arm.state)):
            yield of(packed.weight)[a].T, of(linear.weight)
            yield of(packed.bias)[a, 0], of(linear.bias)
        yield of(network.output.weight)[a, :, :-1], of(arm.output.weight)
        yield of(network.output.weight)[a, :, -1], of(arm.output.bias)


@pytest.mark.parametrize("n_arms", [1, 2, 3])
@pytest.mark.parametrize("density", DENSITIES)
def test_the_plain_step_has_the_same_loss_and_gradients(n_arms, density, monkeypatch):
    """Given the same weights and noise; what the two draw differs, and dropout with it, which is left out. In 64 bits,
    as the gradient of the distance is a small difference of large numbers."""
    shape = Shape(cells=64, genes=90, n_categories=5, hidden=(20, 16), n_arms=n_arms, density=density, dropout=0.0)
    values_ng = random_values(shape).astype(np.float64)
    ours = PackageStep(shape, training_set(shape, values_ng), CPU)
    plain = PlainStep(shape, torch.from_numpy(InMemoryMatrix(values_ng).dense_rows(np.arange(values_ng.shape[0]))))
    for arms in (ours.group.network, plain.arms):
        arms.double()
    n_weights = 0
    with torch.no_grad():
        for own, other in pairs_of(ours, plain, lambda weight: weight):
            other.copy_(own)
            n_weights += other.numel()
    assert n_weights == sum(weight.numel() for weight in ours.group.network.parameters())
    assert n_weights == sum(weight.numel() for weight in plain.arms.parameters())

    noise = {}

    def recorded(name, sample, at):
        def call(*args):
            noise[name] = iter(args[at])  # arm by arm
            return sample(*args)

        monkeypatch.setattr(trainer_step, name, call)

    recorded("gumbel_softmax", trainer_step.gumbel_softmax, 1)
    recorded("gaussian_sample", trainer_step.gaussian_sample, 2)
    idx_n = torch.arange(10, 10 + shape.cells)
    loss = ours(idx_n)
    same = lambda log_q_nk, tau: torch.softmax(log_q_nk + next(noise["gumbel_softmax"]), -1)  # noqa: E731
    monkeypatch.setattr(plain_step, "gumbel_softmax", same)
    monkeypatch.setattr(torch, "randn_like", lambda _: next(noise["gaussian_sample"]))
    plain_loss = plain(idx_n)

    constant = n_arms * max(n_arms - 1, 1) * 0.5 * np.log(2 * np.pi) * shape.genes  # which plain squares leave out
    assert loss - constant == pytest.approx(plain_loss, rel=1e-8)
    for own, theirs in pairs_of(ours, plain, lambda weight: weight.grad):
        torch.testing.assert_close(own, theirs, rtol=1e-7, atol=1e-8 * float(theirs.abs().max()))
