"""Effects of covariates in decoders, in the initial clustering and in the choice of neighbours."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.augmentations.neighbors import Neighbors
from cplmix_ray.collectives.shards import Shards
from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.data.covariates import Covariate
from cplmix_ray.data.neighbors.across_batches import nearest_across_batches
from cplmix_ray.data.neighbors.covariate_effects import without_effects, without_effects_in_categories
from cplmix_ray.data.neighbors.index import NeighborIndex
from cplmix_ray.data.neighbors.mixtures import mixture_categories
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.distributions.gaussian import Gaussian
from cplmix_ray.distributions.likelihood import LIKELIHOODS
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig, ModelSettings
from cplmix_ray.models.cplmixvae.linear_decoder import LinearDecoder
from cplmix_ray.models.cplmixvae.network import ArmShape, PackedArms
from cplmix_ray.models.cplmixvae.training_step import StepContext, augmented_batch, whole_batch
from cplmix_ray.nn.dense_rows import DenseRows

K, D, G, V = 3, 2, 10, 2
BATCH = Covariate("batch", ("a", "b"), (0.25, 0.75))


def design_of(batch_n: np.ndarray) -> np.ndarray:
    return BATCH.columns(batch_n)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def one_hot(c_n: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(c_n, K).float().unsqueeze(0)


@pytest.fixture
def decoder() -> LinearDecoder:
    decoder = LinearDecoder(1, K, D, G, n_covariates=V)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(decoder.named_parameters()):
            parameter.copy_((0.2 if name == "weight" else 0.03) * random(*parameter.shape, seed=seed))
        decoder.own_effects.copy_(0.1 * random(*decoder.own_effects.shape, seed=9))
    return decoder


@pytest.mark.parametrize("training", [True, False])
def test_effects_shift_the_expected_cell_and_leave_the_state_as_it_is(decoder, training):
    """A cell with covariates has the state of the cell without them from which their effect is subtracted."""
    decoder.train(training)
    x_ng, c_n, v_nv = 3 * random(20, G, seed=3), torch.arange(20) % K, random(20, V, seed=4)
    effect_ng = torch.einsum("nv,nvg->ng", v_nv, decoder.effects(0)[c_n])
    with torch.no_grad():
        s_and, _ = decoder.posterior([DenseRows(x_ng)], one_hot(c_n), v_nv.unsqueeze(0))
        zeros = torch.zeros(1, 20, V)
        plain_and, _ = decoder.posterior([DenseRows(x_ng - effect_ng)], one_hot(c_n), zeros)
        torch.testing.assert_close(s_and, plain_and, atol=1e-4, rtol=1e-4)
        shifted = decoder(s_and, one_hot(c_n), v_nv.unsqueeze(0)) - decoder(s_and, one_hot(c_n), zeros)
        torch.testing.assert_close(shifted[0], effect_ng, atol=1e-4, rtol=1e-4)
        losses = [
            decoder.loss(Gaussian(), [DenseRows(x)], s_and, one_hot(c_n), v)
            for x, v in ((x_ng, v_nv.unsqueeze(0)), (x_ng - effect_ng, zeros))
        ]
    torch.testing.assert_close(*losses)


def test_the_fit_finds_common_effects_and_those_of_a_category(decoder):
    """The first two categories have the same effect, the third another one, and the second is of one batch alone."""
    rng = np.random.default_rng(0)
    effect_kg = np.stack([np.linspace(-1, 1, G)] * 2 + [np.linspace(2, -2, G)])
    groups = []
    for k in range(K):
        batch_n = np.zeros(4000, int) if k == 1 else rng.integers(0, 2, 4000)
        x_ng = k + batch_n[:, None] * effect_kg[k] + 0.1 * rng.standard_normal((4000, G))
        groups.append((k, torch.tensor(x_ng).float(), torch.from_numpy(design_of(batch_n))))
    decoder.fit(0, groups)
    found_kg = (decoder.effects(0)[:, 1] - decoder.effects(0)[:, 0]).detach().numpy()
    np.testing.assert_allclose(found_kg[0], effect_kg[0], atol=0.1)
    np.testing.assert_allclose(found_kg[2], effect_kg[2], atol=0.1)
    np.testing.assert_allclose(found_kg[1], (effect_kg[0] + effect_kg[2]) / 2, atol=0.1)
    with torch.no_grad():
        means_kg = decoder.eval()(torch.zeros(1, K, D), torch.eye(K).unsqueeze(0), torch.zeros(1, K, V))[0].numpy()
    in_the_middle_kg = np.arange(K)[:, None] + 0.75 * effect_kg
    np.testing.assert_allclose(means_kg[[0, 2]], in_the_middle_kg[[0, 2]], atol=0.3)


def test_own_effects_are_saved_and_do_not_change_in_training(decoder):
    assert "own_effects" in dict(decoder.named_buffers())
    before, v_1nv = decoder.own_effects.clone(), random(1, 5, V)
    loss = decoder.train().loss(
        Gaussian(), [DenseRows(random(5, G))], random(1, 5, D), one_hot(torch.arange(5) % K), v_1nv
    )
    loss.sum().backward()
    torch.optim.Adam(decoder.parameters(), 0.1).step()
    assert torch.equal(decoder.own_effects, before)
    assert decoder.weight.grad[..., decoder._common].abs().min() > 0


@pytest.mark.parametrize("likelihood", ["gaussian", "nb"])
def test_decoder_layers_receive_covariates_and_the_encoder_does_not(likelihood):
    model = ModelSettings(n_categories=K, n_arms=2, hidden=(7, 6), bottleneck=5, decoder="network")
    with_batch, without = (
        PackedArms(2, model, ArmShape(G, LIKELIHOODS[likelihood], library=20.0, covariates=covariates))
        for covariates in ((BATCH,), ())
    )
    for ours, plain in zip(with_batch.decoder.linears, without.decoder.linears, strict=True):
        assert ours.weight.shape[1] == plain.weight.shape[1] + V
    assert with_batch.output.weight.shape[2] == without.output.weight.shape[2] + V
    assert [p.shape for p in with_batch.encoder.parameters()] == [p.shape for p in without.encoder.parameters()]
    with_batch.draw([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    s_and, c_ank = random(2, 8, D), one_hot(torch.arange(8) % K).expand(2, -1, -1)
    v_anv = torch.from_numpy(design_of(np.arange(8) % 2)).expand(2, -1, -1)
    with_batch.eval()
    with torch.no_grad():
        one, other = with_batch.decode(s_and, c_ank, v_anv), with_batch.decode(s_and, c_ank, v_anv.flip(1))
        average = with_batch.decode(s_and, c_ank)
        torch.testing.assert_close(average, with_batch.decode(s_and, c_ank, torch.zeros_like(v_anv)))
    assert (one - other).abs().min() > 0


def test_each_batch_has_dispersions_of_its_own_if_asked():
    """The loss of cells of one batch is that of a model with the dispersions of that batch; an unknown batch has the
    average of their logarithms."""
    model = ModelSettings(n_categories=K, n_arms=1, hidden=(7,), bottleneck=5, decoder="network")
    by_batch = model.model_copy(update={"dispersion": "gene_batch"})
    shape = ArmShape(G, LIKELIHOODS["nb"], library=20.0, covariates=(BATCH,))
    ours, plain = PackedArms(1, by_batch, shape), PackedArms(1, model, shape)
    assert ours.log_theta.shape == (1, 2, G) and plain.log_theta.shape == (1, 1, G)
    ours.draw([torch.Generator().manual_seed(0)])
    with torch.no_grad():
        ours.log_theta.copy_(random(1, 2, G))
    plain.load_state_dict({**ours.state_dict(), "log_theta": ours.log_theta[:, :1]})
    x_1ng = torch.poisson(2 + 3 * random(1, 9, G, seed=2).abs())
    s_1nd, c_1nk = random(1, 9, D), one_hot(torch.arange(9) % K)
    ours.eval()
    plain.eval()
    shares = torch.tensor(BATCH.shares)
    for batch, theta_g in ((0, ours.log_theta[0, 0]), (1, ours.log_theta[0, 1]), (-1, shares @ ours.log_theta[0])):
        v_1nv = torch.from_numpy(design_of(np.full(9, batch))).unsqueeze(0)
        with torch.no_grad():
            plain.log_theta.copy_(theta_g)
        torch.testing.assert_close(
            ours.reconstruction(x_1ng, s_1nd, c_1nk, v_1nv), plain.reconstruction(x_1ng, s_1nd, c_1nk, v_1nv)
        )
    ours.reconstruction(
        x_1ng, s_1nd, c_1nk, torch.from_numpy(design_of(np.zeros(9, int))).unsqueeze(0)
    ).sum().backward()
    assert ours.log_theta.grad[0, 0].abs().min() > 0
    assert not ours.log_theta.grad[0, 1].any(), "cells of one batch do not change the dispersions of another"


def test_a_copy_that_is_another_cell_has_the_covariates_of_that_cell():
    """Cells whose only gene is their row, with neighbours; two arms and two shards of a minibatch."""
    config = CplMixVAEConfig(model=ModelSettings(n_arms=2, n_categories=K, hidden=(5,), bottleneck=4))
    preparation, cpu = Preparation("log", ("g",)), torch.device("cpu")
    group = ArmGroup(config, preparation, (0, 1), cpu, shards=Shards.all_here(2))
    rows_n = torch.arange(12)
    context = StepContext(
        config,
        lambda idx_n: DenseRows(rows_n[idx_n].float().unsqueeze(1)),
        [Neighbors((rows_n.unsqueeze(1) + 5) % 12)],
        1,
        UnitSum(),
        covariates_of=lambda idx_n: torch.from_numpy(idx_n).float().unsqueeze(1),
    )
    copies, whole = (take(group, context, np.arange(12)) for take in (augmented_batch, whole_batch))
    for batch in (copies, whole):
        assert batch.covariates_anv.shape == (2, 12, 1)
        torch.testing.assert_close(batch.covariates_anv, torch.stack([x.dense() for x in batch.rows]))
    assert (copies.covariates_anv != whole.covariates_anv).any()


@pytest.fixture
def batches() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, type and batch of cells of three types far from each other; the second batch lacks the third type."""
    rng = np.random.default_rng(0)
    type_n, batch_n = rng.integers(0, 3, 600), rng.integers(0, 2, 600)
    batch_n[type_n == 2] = 0
    points_np = 10.0 * np.eye(3)[type_n] + rng.standard_normal((600, 3))
    return points_np.astype(np.float32), type_n, batch_n


def test_neighbours_are_balanced_over_batches_and_no_type_is_forced_onto_another(batches):
    points_np, type_n, batch_n = batches
    near_nj = nearest_across_batches(points_np, batch_n, 10)
    assert near_nj.shape == (600, 10)
    assert not (near_nj == np.arange(600)[:, None]).any()
    other_nj = batch_n[near_nj] != batch_n[:, None]
    assert not other_nj[type_n == 2].any(), "a type that the other batch lacks stays in its own"
    shared = type_n != 2
    assert set(other_nj[shared].sum(axis=1)) <= {0, 5} and other_nj[shared].mean() > 0.4
    assert (type_n[near_nj] == type_n[:, None]).all()
    crossing_n, place = np.nonzero(other_nj)
    partner_n = near_nj[crossing_n, place]
    for cell, partner in zip(crossing_n[::50], partner_n[::50], strict=True):  # mutual: each of the other's nearest
        for one, two in ((cell, partner), (partner, cell)):
            there = np.flatnonzero(batch_n == batch_n[two])
            distance = np.square(points_np[there] - points_np[one]).sum(axis=1)
            assert two in there[np.argsort(distance)[:10]]


@pytest.mark.parametrize("sizes", [(300,), (299, 1), (20,) * 15, (1, 1, 1)])
def test_any_sizes_of_batches_have_neighbours(sizes):
    batch_n = np.repeat(np.arange(len(sizes)), sizes)
    points_np = np.random.default_rng(0).standard_normal((len(batch_n), 4)).astype(np.float32)
    near_nj = nearest_across_batches(points_np, batch_n, 6)
    assert near_nj.shape == (len(batch_n), 6)
    assert near_nj.min() >= 0 and near_nj.max() < len(batch_n)
    if len(sizes) == 15:
        assert (batch_n[near_nj] != batch_n[:, None]).mean() > 0.5


def test_cells_in_memory_together_have_balanced_neighbours_too(batches):
    points_np, _, batch_n = batches
    idx_n = np.arange(0, 600, 2)
    index = NeighborIndex.build(points_np, np.arange(600), 10, 600, 0, batch_n)
    expected = nearest_across_batches(points_np[idx_n], batch_n[idx_n], 10)
    np.testing.assert_array_equal(index.neighbors(idx_n), expected)


def test_linear_effects_are_removed_exactly():
    """For one batch the means of all batches become equal; a continuous covariate is then uncorrelated with all."""
    rng = np.random.default_rng(0)
    batch_n, age_n = rng.integers(0, 2, 200), rng.standard_normal(200)
    design_nv = np.column_stack([design_of(batch_n), age_n]).astype(np.float32)
    points_np = rng.standard_normal((200, 4)) + batch_n[:, None] * [5, -3, 0, 1] + age_n[:, None] * [1, 2, 3, 4]
    found_np = without_effects(points_np, design_nv)
    np.testing.assert_allclose(found_np[batch_n == 0].mean(axis=0), found_np[batch_n == 1].mean(axis=0), atol=1e-4)
    assert np.abs(np.corrcoef(age_n, found_np.T)[0, 1:]).max() < 1e-4
    assert without_effects(points_np, np.zeros((200, 0))) is not points_np
    np.testing.assert_array_equal(without_effects(points_np, np.zeros((200, 0))), points_np)


def test_effects_within_categories_do_not_depend_on_abundances():
    """Batches of opposite composition: their means differ by type, cells of one type only by the batch."""
    rng = np.random.default_rng(0)
    batch_n = rng.integers(0, 2, 4000)
    type_n = (rng.random(4000) < np.where(batch_n == 0, 0.9, 0.1)).astype(int)
    points_np = 8.0 * type_n[:, None] + 3.0 * batch_n[:, None] + rng.standard_normal((4000, 2))
    found_np = without_effects_in_categories(points_np, design_of(batch_n), np.eye(2)[type_n])
    plain_np = without_effects(points_np, design_of(batch_n))
    for type_ in (0, 1):
        apart, plain = (
            np.abs(np.subtract(*(points[(type_n == type_) & (batch_n == b)].mean(axis=0) for b in (0, 1)))).max()
            for points in (found_np, plain_np)
        )
        assert apart < 0.2 < 2 < plain


def test_categories_ignore_the_batch_although_it_lacks_types_and_differs_more_than_they_do():
    rng = np.random.default_rng(0)
    type_n, batch_n = rng.integers(0, 5, 1500), rng.integers(0, 2, 1500)
    keep = ~((batch_n == 1) & (type_n == 4)) & ~((batch_n == 0) & (type_n == 3))
    type_n, batch_n = type_n[keep], batch_n[keep]
    centre_kp, shift_p = 4.0 * rng.standard_normal((5, 12)), 10.0 * rng.standard_normal(12)
    points_np = centre_kp[type_n] + batch_n[:, None] * shift_p + rng.standard_normal((len(type_n), 12))
    design_nv = design_of(batch_n)
    plain = mixture_categories([points_np], 5, "kmeans", 0).votes_nm[:, 0]
    found = mixture_categories([without_effects(points_np, design_nv)], 5, "kmeans", 0, design_nv).votes_nm[:, 0]
    assert adjusted_rand_score(type_n, found) > 0.99 > 0.8 > adjusted_rand_score(type_n, plain)
