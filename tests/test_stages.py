"""The two stages: encoders alone come to agree, then Eq. 7; with fine categories in the first, merged at its end."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from bitwise import assert_bitwise
from sklearn.metrics import adjusted_rand_score
from test_objective import CPU, EXACT, cells_of, context_of, d_sigma2, gradients_of, group_of, leaves_of, linear, mlp
from torch import Tensor
from torch.nn.functional import batch_norm, cross_entropy, one_hot

from cplmix_ray.augmentations.augmentation import build_augmentations
from cplmix_ray.checkpoints.checkpoint import latest_checkpoint, write_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.distributed.actors import train_on_actors
from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributions.likelihood import LIKELIHOODS
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.cplmixvae import category_merging as merging
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.config import Alignment, ArmTraining, CplMixVAEConfig, ModelSettings, Objective
from cplmix_ray.models.cplmixvae.dataset import augmentations_for
from cplmix_ray.models.cplmixvae.network import ArmShape, PackedArms
from cplmix_ray.models.cplmixvae.objective import Weights, aligning, weights_at
from cplmix_ray.models.cplmixvae.training_step import StepContext, augmented_batch, train_step
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.runs.run import training_milestones
from cplmix_ray.training.events import Evaluated, Logged, Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.training.sampler import MinibatchSampler

TYPES, GENES, ALIGN, STEPS = 3, 24, 4, 8
LATE = ("network/decoder.", "network/output.", "network/state_head.")
"""What the first stage leaves alone."""


def planted(n_per_type: int = 40) -> anndata.AnnData:
    """Counts of cells whose types have their own markers, in random order."""
    rng = np.random.default_rng(0)
    type_n = rng.permutation(np.repeat(np.arange(TYPES), n_per_type))
    rate_ng = np.full((len(type_n), GENES), 2.0)
    for kind in range(TYPES):
        rate_ng[np.ix_(type_n == kind, np.arange(5 * kind, 5 * kind + 5))] = 15.0
    obs = pd.DataFrame({"type": [f"t{t}" for t in type_n]}, index=[f"c{i}" for i in range(len(type_n))])
    var = pd.DataFrame(index=[f"g{i}" for i in range(GENES)])
    return anndata.AnnData(rng.poisson(rate_ng).astype(np.float32), obs=obs, var=var)


def config_of(align: int = ALIGN, guess: float = 0.0, **sections) -> CplMixVAEConfig:
    """A small run that logs every step, with ``sections`` over it."""
    tree = {
        "model": {"n_categories": TYPES, "hidden": [12], "bottleneck": 6},
        "alignment": {"align_steps": align, "align_guess": guess},
        "training": {"max_steps": STEPS, "batch_size": 32, "log_every": 1, "evaluate_every": 1, "checkpoint_every": 1},
        "copies": {"n_neighbours": 5, "neighbour_pcs": 6},
        "seed": 3,
    }
    for name, settings in sections.items():
        tree[name] = {**tree.get(name, {}), **settings}
    return parse_config(tree)


OVER, GUESS = {"model": {"overcluster": 2}}, {"guess": 1.0}


def data_of(config: CplMixVAEConfig) -> Dataset:
    return build_dataset(source_from_anndata(planted(), labels_key="type"), config)


@pytest.fixture
def few_pairs(monkeypatch):
    """Merging looks at fewer copies than it would; actors have modules of their own and look at all."""
    monkeypatch.setattr(merging, "_PAIRS", 1000)
    monkeypatch.setattr(merging, "_BATCH", 500)


def run(config: CplMixVAEConfig, data: Dataset, *workers: tuple[int, ...], start: Start | None = None) -> list:
    workers = workers or (tuple(range(config.model.n_arms)),)
    train = train_in_process if len(workers) == 1 else train_on_actors
    return list(train(Plan("ray", workers, False, ""), config, data.training, start or Start()))


def of_kind(events: list, kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


def snapshots_of(events: list) -> dict[int, dict[int, dict[str, Tensor]]]:
    return {event.step: event.parts for event in of_kind(events, Snapshot)}


# What counts when


def test_each_stage_has_its_own_weights_and_lambda_rises_from_the_end_of_the_first():
    config = CplMixVAEConfig(
        objective=Objective(coupling="euclidean", lam=2.0, reconstruction=0.1, beta=0.5, entropy=-1.0, marginal=3.0),
        alignment=Alignment(
            align_steps=5, align_coupling="aitchison", align_entropy=0.25, align_marginal=0.75, align_guess=1.5
        ),
        training=ArmTraining(lam_warmup=4),
    )
    first = Weights("aitchison", 1.0, None, 0.0, 0.25, 0.75, 1.5)
    assert [weights_at(step, config) for step in (0, 4)] == [first, first]
    assert [aligning(step, config) for step in (0, 4, 5, 6)] == [True, True, False, False]
    for step, lam in ((5, 0.0), (6, 0.5), (8, 1.5), (9, 2.0), (1000, 2.0)):
        assert weights_at(step, config) == Weights("euclidean", lam, 0.1, 0.5, -1.0, 3.0, 0.0)


def test_without_a_first_stage_all_is_as_published_from_the_first_step():
    assert not aligning(0, CplMixVAEConfig())
    assert weights_at(0, CplMixVAEConfig()) == Weights("d_sigma", 1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


# The first stage


@pytest.mark.parametrize("likelihood", ["gaussian", "nb"])
def test_the_decoder_and_the_state_wait_for_the_end_of_the_first_stage(likelihood):
    config = config_of(model={"likelihood": likelihood})
    data = data_of(config)
    begin = ArmGroup(config, data.training.preparation, (0, 1), CPU).snapshot()
    saved = snapshots_of(run(config, data))
    late = [*LATE, *(["network/log_theta"] if likelihood == "nb" else [])]
    for arm, tensors in begin.items():
        waiting = [name for name in tensors if name.startswith(tuple(late))]
        assert {name.split(".")[0] for name in waiting} == {part.rstrip(".") for part in late}
        for name in waiting:
            for step in range(1, ALIGN + 1):
                assert torch.equal(saved[step][arm][name], tensors[name]), (step, name)
            assert not torch.equal(saved[ALIGN + 1][arm][name], tensors[name]), name
        early = {name for name in tensors if name.startswith("network/")} - set(waiting)
        assert all(not torch.equal(saved[1][arm][name], tensors[name]) for name in early)


def test_weights_that_begin_late_count_their_own_steps():
    """Adam corrects its moments for how few steps they are made of; in the first stage they are made of none."""
    config = config_of()
    saved = snapshots_of(run(config, data_of(config)))
    begin_late = tuple(name.replace("network", "adam") for name in LATE)
    for step, arms in saved.items():
        steps = {
            name: int(t) for name, t in arms["arm-1"].items() if name.startswith("adam/") and name.endswith("/step")
        }
        late = {name: n for name, n in steps.items() if name.startswith(begin_late)}
        assert set(late.values()) == ({step - ALIGN} if step > ALIGN else set())
        assert {n for name, n in steps.items() if name not in late} == {step}


@pytest.mark.parametrize("sections", [{}, OVER, GUESS], ids=["plain", "overcluster", "guess"])
def test_the_first_stage_tells_of_no_reconstruction_and_the_second_of_no_guess(few_pairs, sections):
    config = config_of(**sections)
    for event in of_kind(run(config, data_of(config)), Logged):
        names = {"entropy", "marginal_entropy", "loss", "gradient", "sigma_floored"}
        if event.step > ALIGN:
            names |= {"reconstruction", "kl_state"}
        elif "guess" in sections:
            names |= {"guess"}
        assert set(event.terms) == names, event.step
        assert all(np.isfinite(values).all() for values in event.terms.values())


def coupled(name: str, log_q: list[Tensor], floor: float) -> tuple[Tensor, Tensor]:
    """What the coupling of weight 1 adds to the loss, and something whose gradient is the coupling's."""
    n_arms, q = len(log_q), [log.exp() for log in log_q]
    if name == "agreement":
        pulls = []
        for a in range(n_arms):
            others = sum(q[b] for b in range(n_arms) if b != a).detach() / (n_arms - 1)
            pulls.append(-(n_arms - 1) * ((q[a] * others).sum(-1) + 1e-8).log().mean())
        return 0.5 * sum(pulls).detach(), sum(pulls)
    of_pair = {
        "d_sigma": lambda a, b: d_sigma2(log_q[a], log_q[b], floor),
        "euclidean": lambda a, b: (q[a] - q[b]).square().sum(-1).mean(),
    }[name]
    total = sum(of_pair(a, b) for a in range(n_arms) for b in range(a))
    return total.detach(), total


@pytest.mark.parametrize("n_arms", [2, 3])
@pytest.mark.parametrize("coupling", ["agreement", "euclidean", "d_sigma"])
@pytest.mark.parametrize(
    ("entropy", "marginal", "guess", "overcluster"),
    [(0.0, 1.0, 0.0, 1), (0.3, 0.0, 0.7, 1), (-0.5, 2.0, 1.5, 1), (0.4, 1.3, 0.0, 3)],
)
def test_the_loss_of_the_first_stage_and_its_gradient_from_the_parameters(
    n_arms, coupling, entropy, marginal, guess, overcluster
):
    """The posterior is the plain softmax over the fine categories, whatever it is tempered by later."""
    alignment = Alignment(
        align_steps=9, align_coupling=coupling, align_entropy=entropy, align_marginal=marginal, align_guess=guess
    )
    model = ModelSettings(
        n_arms=n_arms, n_categories=4, overcluster=overcluster, hidden=(6,), bottleneck=5, likelihood="gaussian"
    )
    config = CplMixVAEConfig.model_construct(**{**dict(CplMixVAEConfig()), "model": model, "alignment": alignment})
    group, x_ang = group_of(config), cells_of("gaussian", n_arms)
    guess_n = torch.arange(x_ang.shape[1]) * 7 % 4
    leaves, floor = leaves_of(group), config.objective.sigma_floor
    log_q, own = [], []
    for a in range(n_arms):
        w = {name: p[a] for name, p in leaves.items()}
        z = batch_norm(mlp(w, "encoder", x_ang[a], True), None, None, training=True, eps=1e-3)
        logits = linear(w, "category_head", z)
        q = torch.softmax(logits, dim=-1)
        assert q.shape[-1] == 4 * overcluster
        h = -(q * q.log()).sum(-1).mean()
        h_mean = -(q.mean(0) * q.mean(0).log()).sum()
        surprise = cross_entropy(logits, guess_n)
        own.append((n_arms - 1) * (-entropy * h - marginal * h_mean + guess * surprise))
        log_q.append(torch.log_softmax(logits, dim=-1))
    value, pull = coupled(coupling, log_q, floor)
    report, _ = train_step(group, context_of(config), x_ang, 0, guess_n.expand(n_arms, -1).unsqueeze(-1))
    torch.testing.assert_close(report["loss"].sum(), sum(own).detach() + value, **EXACT)
    assert "reconstruction" not in report and "kl_state" not in report
    assert ("guess" in report) == (guess > 0)
    ours = {name: p.grad for name, p in group.network.named_parameters()}
    expected = torch.autograd.grad(sum(own) + pull, list(leaves.values()), allow_unused=True)
    for name, slope in zip(leaves, expected, strict=True):
        if slope is None:
            assert ours[name] is None, name
        else:
            torch.testing.assert_close(ours[name], slope, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_what_is_logged_is_of_the_cells_of_the_step_with_their_own_guesses():
    """The first step of a real run, from its seed: the order of the cells, their copies, what is guessed of them."""
    config = config_of(**GUESS)
    data = data_of(config).training
    group = ArmGroup(config, data.preparation, (0, 1), CPU)
    kinds = augmentations_for(config, data.preparation, data.matrix)
    chain = build_augmentations(kinds, config.copies, data.preparation, data.tables)
    context = StepContext(config, row_reader(data.matrix, CPU), chain, STEPS, UnitSum())
    idx_n = MinibatchSampler(data.train_idx, 32, config.seed, (1000,)).batch(0)
    x_ang = augmented_batch(group, context, idx_n).rows
    with torch.no_grad():
        log_q_ank = group.network.train().encode(x_ang, fine=True).log_q_ank
    surprise = [cross_entropy(log_q_ank[a], torch.as_tensor(data.tables.guess[idx_n, 0])).item() for a in (0, 1)]
    logged = of_kind(run(config, data_of(config)), Logged)[0]
    np.testing.assert_allclose(logged.terms["guess"], surprise, rtol=1e-5)
    agree = float(-((log_q_ank[0] + log_q_ank[1]).exp().sum(-1) + 1e-8).log().mean())
    spread = logged.terms["marginal_entropy"]
    assert sum(logged.terms["loss"]) == pytest.approx(sum(surprise) - sum(spread) + agree, rel=1e-5)


# Fine categories


def network_of(posterior: str, n_arms: int = 2) -> PackedArms:
    model = ModelSettings(n_arms=n_arms, n_categories=4, overcluster=3, hidden=(6,), bottleneck=5, posterior=posterior)
    network = PackedArms(n_arms, model, ArmShape(7, LIKELIHOODS["gaussian"])).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
    return network


@pytest.mark.parametrize("posterior", ["softmax", "tempered"])
@pytest.mark.parametrize("groups", [None, [3, 1, 0, 2, 2, 2, 0, 1, 3, 3, 3, 1]], ids=["as begun", "merged"])
def test_probabilities_of_categories_are_sums_of_those_of_their_parts(posterior, groups):
    network, x_ang = network_of(posterior), cells_of("gaussian", 2)
    if groups is not None:
        network.merge(torch.tensor(groups))
    fine = network.encode(x_ang, fine=True).log_q_ank.exp()
    assert fine.shape == (2, x_ang.shape[1], 12)
    member = groups or [k % 4 for k in range(12)]
    sums = torch.stack([fine[..., [f for f, k in enumerate(member) if k == c]].sum(-1) for c in range(4)], dim=-1)
    expected = sums if posterior == "softmax" else torch.softmax(sums / network.model.temperature, dim=-1)
    torch.testing.assert_close(network.encode(x_ang).log_q_ank.exp(), expected)


def test_a_category_without_parts_has_a_logarithm_and_a_gradient():
    network, x_ang = network_of("softmax"), cells_of("gaussian", 2)
    network.merge(torch.zeros(12, dtype=torch.long))
    log_q_ank = network.encode(x_ang).log_q_ank
    log_q_ank.sum().backward()
    assert torch.isfinite(log_q_ank).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_at_the_end_of_the_first_stage_all_arms_take_over_the_same_groups(few_pairs):
    config = config_of(model={"overcluster": 2, "n_arms": 3, "posterior": "softmax"})
    saved = snapshots_of(run(config, data_of(config)))
    pools = {step: torch.stack([t["network/pool"] for t in arms.values()]) for step, arms in saved.items()}
    for pool in pools.values():
        assert pool.shape == (3, 2 * TYPES, TYPES)
        assert set(pool.unique().tolist()) == {0.0, 1.0}
        assert (pool.sum(-1) == 1).all()
        assert (pool == pool[0]).all()
        assert (pool[0].sum(0) > 0).all(), "every category has a part"
    for step in range(ALIGN, STEPS + 1):
        assert torch.equal(pools[step], pools[ALIGN]), "merged once"


def test_what_is_merged_is_what_the_arms_confuse(few_pairs):
    """Encoders that see the type and a coin: the parts of a type are confused, and go together."""
    config = config_of(model={"overcluster": 2, "hidden": [], "bottleneck": GENES})
    data = data_of(config).training
    group = ArmGroup(config, data.preparation, (0, 1), CPU)
    context = StepContext(config, row_reader(data.matrix, CPU), [], STEPS, UnitSum())
    part = torch.tensor([4, 0, 2, 1, 5, 3])  # types of the parts: 0 1 2 0 1 2 in this order

    def encode(cells, fine=False):
        x_ang = torch.stack([x.dense() for x in cells])
        type_an = torch.stack([x_ang[..., 5 * t : 5 * t + 5].sum(-1) for t in range(TYPES)]).argmax(0)
        coin_an = torch.randint(0, 2, type_an.shape)
        q = one_hot(part[type_an + TYPES * coin_an], 6).float()
        return type("Encoded", (), {"log_q_ank": (0.98 * q + 0.02 / 6).log()})

    group.network.encode = encode
    torch.manual_seed(0)
    merging.merge_categories(group, context, data.train_idx, 1)
    groups = group.network.pool[0].argmax(-1)
    assert groups[part[:3]].tolist() == groups[part[3:]].tolist()
    assert sorted(groups.tolist()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("sections", "layout"),
    [
        (OVER, [(0,), (1,)]),
        pytest.param(GUESS, [(0,), (1,)], marks=pytest.mark.slow),
        pytest.param(OVER, [(0, 1), (2,)], marks=pytest.mark.slow),
        pytest.param(GUESS, [(0, 1), (2,)], marks=pytest.mark.slow),
    ],
    ids=["overcluster", "guess", "overcluster, uneven", "guess, uneven"],
)
def test_actors_equal_packed_through_both_stages(ray_cluster, sections, layout):
    n_arms = sum(map(len, layout))
    config = config_of(**{**sections, "model": {"n_arms": n_arms, **sections.get("model", {})}})
    data = data_of(config)
    one, other = run(config, data), run(config, data, *layout)
    for a, b in zip(of_kind(one, Logged), of_kind(other, Logged), strict=True):
        assert (a.step, a.terms.keys()) == (b.step, b.terms.keys())
        for name, values in a.terms.items():
            np.testing.assert_allclose(values, b.terms[name], rtol=1e-4, atol=1e-5, err_msg=f"{a.step} {name}")
        np.testing.assert_allclose(a.shared["distance"], b.shared["distance"], rtol=1e-4, atol=1e-5)
    for a, b in zip(of_kind(one, Evaluated), of_kind(other, Evaluated), strict=True):
        assert a.step == b.step
        np.testing.assert_array_equal(a.outputs["log_q_ank"].argmax(-1), b.outputs["log_q_ank"].argmax(-1))
        np.testing.assert_allclose(a.outputs["log_q_ank"], b.outputs["log_q_ank"], rtol=1e-4, atol=1e-4)
    saved, saved_b = snapshots_of(one), snapshots_of(other)
    for step in saved:
        for arm, tensors in saved[step].items():
            assert tensors.keys() == saved_b[step][arm].keys()
            if "model" in sections:
                assert torch.equal(tensors["network/pool"], saved_b[step][arm]["network/pool"]), step


@pytest.mark.parametrize(
    ("sections", "align"),
    [(OVER, 120), (OVER, 1000), (GUESS, 120)],
    ids=["overcluster", "overcluster, not merged for good", "guess"],
)
def test_planted_types_are_found_after_both_stages_and_inside_the_first(few_pairs, sections, align):
    often = {"max_steps": 150, "evaluate_every": 150, "checkpoint_every": 150, "log_every": 150, "lr": 0.01}
    objective = {"coupling": "agreement", "marginal": 1.0, "entropy": 0.0, "reconstruction": 0.01}
    model = {"posterior": "softmax", "hidden": [24], "bottleneck": 10, **sections.get("model", {})}
    config = config_of(align, **{**sections, "model": model, "objective": objective, "training": often})
    data = data_of(config)
    parts = snapshots_of(run(config, data))[150]
    found = TrainedModel.from_parts(config, data.training.preparations, parts, 150).infer(data.training)
    assert adjusted_rand_score(data.labels_n, found["probs_nk"].argmax(1)) > 0.95


# Looking at a run, and leaving it, inside the first stage


class Silent:
    def say(self, line): ...
    def advance(self, step, figures): ...


def leave_at(step: int, config: CplMixVAEConfig, data: Dataset, folder: RunFolder) -> None:
    """Begin a run and close it as soon as it is saved after ``step`` steps."""
    from cplmix_ray.distributed.engines import engine_for

    with engine_for(config.placement, config.model.n_arms) as engine:
        milestones = training_milestones(config, data, folder, Silent(), engine)
        next(m for m in milestones if m.saved is not None and m.step == step)
        milestones.close()


@pytest.mark.parametrize("sections", [{}, OVER, GUESS], ids=["plain", "overcluster", "guess"])
def test_looking_does_not_change_the_run(few_pairs, sections):
    """Scores and checkpoints inside the first stage merge for the moment; what comes after does not know."""
    often = config_of(**sections)
    rarely = config_of(**sections, training={"evaluate_every": 100, "checkpoint_every": 100})
    one, other = (snapshots_of(run(config, data_of(config)))[STEPS] for config in (often, rarely))
    assert_bitwise(one, other)


def test_a_checkpoint_inside_the_first_stage_gives_categories(few_pairs, tmp_path):
    config = config_of(model={"overcluster": 3}, placement={"engine": "local"})
    cells = planted()
    data, folder = data_of(config), RunFolder(tmp_path / "run")
    leave_at(ALIGN - 1, config, data, folder)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    predict(["--run", str(folder.path), "--data", str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "out.h5ad")])
    result = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert result.obsm["cplmix_probs"].shape == (len(cells), TYPES)
    np.testing.assert_allclose(result.obsm["cplmix_probs"].sum(1), 1, rtol=1e-5)
    assert list(result.obs["cplmix_category"].cat.categories) == ["0", "1", "2"]
    assert TrainedModel.load(folder.path).step == ALIGN - 1


@pytest.mark.parametrize("sections", [OVER, GUESS], ids=["overcluster", "guess"])
def test_a_run_may_end_inside_its_first_stage(few_pairs, sections):
    config = config_of(align=100, **sections)
    events = run(config, data_of(config))
    evaluated = of_kind(events, Evaluated)
    assert {e.outputs["log_q_ank"].shape[-1] for e in evaluated} == {TYPES}
    assert all(
        np.isfinite(e.outputs["log_q_ank"]).all() and np.isfinite(e.outputs["reconstruction_a"]).all()
        for e in evaluated
    )
    assert all("reconstruction" not in e.terms for e in of_kind(events, Logged))


@pytest.mark.parametrize("at", [1, ALIGN - 1, ALIGN, ALIGN + 1, STEPS - 1])
@pytest.mark.parametrize("sections", [{}, OVER, GUESS], ids=["plain", "overcluster", "guess"])
def test_a_run_that_is_left_and_taken_up_ends_bitwise_where_the_whole_one_does(few_pairs, tmp_path, sections, at):
    """Through the disk, inside the first stage, at its very end and after it."""
    config = config_of(**sections)
    data = data_of(config)
    whole = run(config, data)
    write_checkpoint(tmp_path, of_kind(whole, Snapshot)[at - 1], {}, keep=1)
    found = latest_checkpoint(tmp_path)[0]
    assert found.step == at
    rest = run(config, data_of(config), start=Start(found.step, found.parts))
    assert_bitwise(snapshots_of(rest)[STEPS], snapshots_of(whole)[STEPS])
    logged, logged_rest = (of_kind(events, Logged) for events in (whole, rest))
    assert [(e.step, e.terms) for e in logged[at:]] == [(e.step, e.terms) for e in logged_rest]


def test_checkpoints_from_before_steps_were_saved_are_taken_up_as_they_were():
    """All weights began together then, so the run's step is theirs."""
    config = config_of(align=0)
    data = data_of(config)
    saved = snapshots_of(run(config, data))
    assert int(saved[3]["arm-0"]["adam/output.weight/step"]) == 3
    old = {arm: {n: t for n, t in tensors.items() if not n.endswith("/step")} for arm, tensors in saved[3].items()}
    assert len(old["arm-0"]) < len(saved[3]["arm-0"])
    assert_bitwise(snapshots_of(run(config, data, start=Start(3, old)))[STEPS], saved[STEPS])


@pytest.mark.slow
def test_a_run_left_in_the_first_stage_goes_on_in_another_layout(ray_cluster):
    config = config_of(**OVER)
    data = data_of(config)
    whole = run(config, data)
    rest = run(config, data, (0,), (1,), start=Start(2, snapshots_of(whole)[2]))
    for a, b in zip(of_kind(whole, Logged)[2:], of_kind(rest, Logged), strict=True):
        np.testing.assert_allclose(a.terms["loss"], b.terms["loss"], rtol=1e-4, atol=1e-5)


# What is legal must not yield NaN


@pytest.mark.parametrize("coupling", ["d_sigma", "aitchison", "euclidean", "agreement"])
@pytest.mark.parametrize(
    ("n_arms", "n_categories", "n_cells", "lam"),
    [(1, 4, 13, 1.0), (1, 1, 1, 0.0), (2, 1, 13, 1.0), (2, 4, 1, 1.0), (2, 1, 1, 1.0), (2, 4, 13, 0.0), (3, 4, 1, 0.0)],
)
@pytest.mark.parametrize(("posterior", "overcluster"), [("tempered", 1), ("softmax", 1), ("softmax", 2)])
def test_both_stages_stay_finite(coupling, n_arms, n_categories, n_cells, lam, posterior, overcluster):
    config = CplMixVAEConfig(
        model=ModelSettings(
            n_arms=n_arms,
            n_categories=n_categories,
            overcluster=overcluster,
            posterior=posterior,
            hidden=(6,),
            bottleneck=5,
            likelihood="gaussian",
        ),
        objective=Objective(coupling=coupling, lam=lam, marginal=1.0),
        alignment=Alignment(align_steps=3, align_coupling=coupling, align_guess=0.0),
        training=ArmTraining(lr=0.01, max_steps=10),
    )
    group, x_ang = group_of(config), cells_of("gaussian", n_arms, n_cells).float()
    group.network.float()
    x_ang[:, 0] = 0.0
    for step in range(6):
        report, distance = train_step(group, context_of(config), x_ang, step)
        for name, value in [*report.items(), ("distance", distance), *group.network.state_dict().items()]:
            assert torch.isfinite(value).all(), (step, name)
        if n_arms == 1:
            assert abs(float(distance)) < 1e-5
    assert gradients_of(group)
