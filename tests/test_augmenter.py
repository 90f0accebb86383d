"""The learned augmenter: its terms in closed form, its training, its folder, and its copies in a coupled run."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import yaml
from bitwise import assert_bitwise

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.cli.augment_command import augment, parse_augment
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.collectives.process_groups import ProcessGroups
from cplmix_ray.config.files import load_config, parse_config
from cplmix_ray.config.section import Section
from cplmix_ray.data.io.read import read_input, read_source
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN, Modality, TrainingSet
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.base import TrainingContext
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.models.vaegan.augmentation import Learned
from cplmix_ray.models.vaegan.config import VAEGANConfig
from cplmix_ray.models.vaegan.frozen import MANIFEST, WEIGHTS, build_augmenter, freeze, read_augmenter
from cplmix_ray.models.vaegan.model import VAEGAN
from cplmix_ray.models.vaegan.moments import cell_moments
from cplmix_ray.models.vaegan.networks import Augmenter, AugmenterShape, Discriminator
from cplmix_ray.models.vaegan.objective import (
    discriminator_loss,
    gaussian_kl,
    latent_divergence,
    log_likelihood,
    non_saturating_loss,
    triplet,
)
from cplmix_ray.models.vaegan.quality import Cells, measure
from cplmix_ray.models.vaegan.randomness import ORDER_KEY, minibatches
from cplmix_ray.training.events import Logged, Snapshot
from cplmix_ray.training.loop import Start, training_loop
from cplmix_ray.training.sampler import MinibatchSampler
from cplmix_ray.utils.errors import InputError

SHAPE = AugmenterShape(12, latent_dim=3, noise_dim=4, hidden=(16, 8), pixels=True, nonnegative=True)
CPU = torch.device("cpu")
SMALL = ["--hidden", "32", "16", "--discriminator-hidden", "16", "--batch-size", "32", "--threads", "1"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=60, g=12):
    return torch.rand((n, g), generator=seeded(3))


def settings(**tree):
    networks = {"latent_dim": 3, "noise_dim": 4, "hidden": (16, 8), "discriminator_hidden": (8,)}
    training = {"max_steps": 6, "batch_size": 16, "log_every": 2, **tree.pop("training", {})}
    return VAEGANConfig.model_validate({"model": networks, "training": training, **tree})


def training_set(values):
    """Images of as many pixels as there are columns, all to train on."""
    preparation = Preparation("images", tuple(f"p{g}" for g in range(values.shape[1])), image_shape=values.shape[1:])
    modality = Modality(InMemoryMatrix(values), preparation)
    return TrainingSet({MAIN: modality}, np.arange(len(values)), np.arange(0))


def trained(config, data):
    """The model after training, and what was logged."""
    events = list(training_loop(config, data, (0,), CPU, Start()))
    model = TrainedModel.from_parts(config, data.preparations, events[-1].parts, events[-1].step).model
    spread, logged = cell_moments(data.matrix, data.train_idx), [event for event in events if isinstance(event, Logged)]
    return SimpleNamespace(augmenter=model.augmenter, parts=events[-1].parts, spread=spread), logged


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("near", "far", "alpha", "term"), [(3.0, 5.0, 1.0, 0.0), (3.0, 5.0, 3.0, 1.0), (5, 3, 0, 2)])
def test_the_triplet_term_is_the_margin_that_is_missing(near, far, alpha, term):
    x = torch.zeros(2, 4)
    ray = torch.tensor([[0.0, 0.6, 0.8, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(triplet(x, near * ray, far * ray, alpha, 1.0), torch.full((2,), float(term)))
    # Distances count in units: the same figure in another scale.
    torch.testing.assert_close(triplet(x, 7 * near * ray, 7 * far * ray, alpha, 7.0), torch.full((2,), float(term)))


def test_the_triplet_term_has_a_finite_gradient_where_a_copy_is_the_cell():
    x = images(4)
    copy = x.clone().requires_grad_()
    triplet(x, copy, x, 1.0, 1.0).sum().backward()
    assert torch.isfinite(copy.grad).all()


def test_the_divergence_is_that_of_two_gaussians():
    draws = [torch.randn((5, 3), generator=seeded(i)) for i in range(4)]
    one, other = (
        torch.distributions.Independent(torch.distributions.Normal(mu, (0.5 * log_var).exp()), 1)
        for mu, log_var in (draws[:2], draws[2:])
    )
    torch.testing.assert_close(gaussian_kl(*draws), torch.distributions.kl_divergence(one, other))
    assert torch.equal(gaussian_kl(*draws[:2], *draws[:2]), torch.zeros(5))


def test_the_log_likelihoods_are_those_of_coins_and_of_unit_gaussians():
    x, out = images(4), torch.randn((4, 12), generator=seeded(1))
    p = torch.sigmoid(out)
    torch.testing.assert_close(log_likelihood(x, out, True), (x * p.log() + (1 - x) * (1 - p).log()).sum(-1))
    normal = torch.distributions.Normal(out, 1.0)
    torch.testing.assert_close(log_likelihood(x, out, False), (normal.log_prob(x) - normal.log_prob(out)).sum(-1))


def test_the_adversarial_value_is_that_of_its_definition():
    discriminator, x = Discriminator(12, (8,), seeded()), images(6)
    copies = images(12)[6:], images(18)[12:]
    loss, value = discriminator_loss(discriminator, x, *copies, smoothness=0.0)
    d, d0, dn = (torch.sigmoid(discriminator(cells)) for cells in (x, *copies))
    expected = d.log().mean() + ((1 - d0).log().mean() + (1 - dn).log().mean()) / 2
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(loss, -expected)
    torch.testing.assert_close(non_saturating_loss(discriminator, *copies), -(d0.log().mean() + dn.log().mean()) / 2)


def test_the_penalty_is_the_squared_gradient_on_real_cells():
    discriminator, x = Discriminator(12, (8,), seeded()), images(6)
    plain, _ = discriminator_loss(discriminator, x, x, x, smoothness=0.0)
    steady, _ = discriminator_loss(discriminator, x, x, x, smoothness=3.0)
    step, slopes = 1e-3, []
    for g in range(12):
        shift = step * torch.eye(12)[g]
        slopes.append((discriminator(x + shift) - discriminator(x - shift)) / (2 * step))
    torch.testing.assert_close(steady - plain, 1.5 * torch.stack(slopes).square().sum(0).mean(), rtol=1e-2, atol=1e-4)


def test_the_steps_of_the_rivals_leave_each_other_alone():
    x, config = images(20), settings()
    data = training_set(x.numpy())
    rivals = VAEGAN(config, data.preparation, CPU)
    rivals.start_training(TrainingContext(data, None, ProcessGroups.single_process(1), 6), None)
    augmenter, discriminator = weights(rivals.augmenter), weights(rivals.discriminator)
    copies = rivals.augmenter.noise_free_copy(x), rivals.augmenter.noisy_copy(x, seeded())
    rivals._update_discriminator(x, *copies, 0)
    assert same(weights(rivals.augmenter), augmenter)
    assert not same(weights(rivals.discriminator), discriminator)
    assert all(p.grad is None for p in rivals.augmenter.parameters())

    discriminator = weights(rivals.discriminator)
    rivals.optimisers["discriminator"].zero_grad(set_to_none=True)
    zero = torch.zeros(())
    terms = {"fooling": non_saturating_loss(rivals.discriminator, *copies), "log_likelihood": zero, "triplet": zero}
    rivals._update_generator({**terms, "divergence": zero}, 0)  # the fooling term alone moves encoder and decoder
    assert same(weights(rivals.discriminator), discriminator)
    assert all(p.grad is None for p in rivals.discriminator.parameters())
    moved = weights(rivals.augmenter)
    assert not any(torch.equal(moved[name], augmenter[name]) for name in augmenter if "weight" in name)


def test_the_divergence_moves_the_decoder_that_made_the_copy():
    net, x = Augmenter(SHAPE, seeded()), images(5)
    divergence = latent_divergence(net, net.encode(x), net.noisy_copy(x, seeded(1))).mean()
    slopes = torch.autograd.grad(divergence, [net.out.weight, net.posterior.weight])
    assert divergence > 0
    assert all(slope.abs().sum() > 0 for slope in slopes)


def test_without_noise_a_copy_is_always_the_same_and_with_noise_never():
    net, x = Augmenter(SHAPE, seeded()), images(5)
    assert torch.equal(net.noise_free_copy(x), net.noise_free_copy(x))
    one, other = net.noisy_copy(x, seeded(1)), net.noisy_copy(x, seeded(2))
    assert not torch.isclose(one, other).all(dim=1).any()
    assert torch.equal(one, net.noisy_copy(x, seeded(1)))


@pytest.mark.parametrize(("pixels", "nonnegative", "low", "high"), [(1, 1, 0, 1), (0, 1, 0, 9), (0, 0, -9, 9)])
def test_copies_lie_in_the_range_of_the_cells(pixels, nonnegative, low, high):
    net = Augmenter(AugmenterShape(12, 3, 4, (16,), bool(pixels), bool(nonnegative)), seeded())
    values = net.values(torch.linspace(-9, 9, 12)[None], torch.ones(1, 12))
    assert low <= values.min() <= low + 0.01
    assert high - 0.01 <= values.max() <= high


def test_copies_keep_the_zeros_of_their_cells_where_asked_to():
    x = images() * (images(120)[60:] > 0.5)
    for keep in (False, True):
        net = Augmenter(AugmenterShape(12, 3, 4, (16,), False, False, keep), seeded())
        for copy in (net.noise_free_copy(x), net.noisy_copy(x, seeded(1))):
            assert (copy[x != 0] != 0).all()
            assert bool((copy[x == 0] == 0).all()) is keep


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    data = training_set(images().numpy())
    first, seen = trained(settings(), data)
    torch.rand(7)
    again, _ = trained(settings(), data)
    other, _ = trained(settings(seed=1), data)
    assert_bitwise(first.parts, again.parts)
    assert not same(weights(first.augmenter), weights(other.augmenter))
    assert [event.step for event in seen] == [2, 4, 6]
    assert set(seen[0].terms) == {"loss", "value", "fooling", "log_likelihood", "triplet", "divergence"}


def test_the_loss_is_the_weighted_sum_of_its_terms():
    config = settings(objective={"fidelity": 0.3, "triplet": 7.0, "gamma": 0.5})
    for event in trained(config, training_set(images().numpy()))[1]:
        term = {name: value for name, (value,) in event.terms.items()}
        expected = term["fooling"] - 0.3 * term["log_likelihood"] + 7.0 * term["triplet"] + 0.5 * term["divergence"]
        assert term["loss"] == pytest.approx(expected, rel=1e-5)


def change_of(part, before, after):
    """Largest change of a weight of a part between two snapshots."""
    names = [name for name in before[part] if name.startswith("network/")]
    return max(float((after[part][name] - before[part][name]).abs().max()) for name in names)


@pytest.mark.parametrize(
    ("training", "moved", "still"),
    [
        ({"discriminator_lr": 1e-2}, ["discriminator", "generator"], []),
        ({"lr_schedule": "cosine"}, ["discriminator", "generator"], []),
        ({"lr_warmup": 3}, ["discriminator", "generator"], []),
        ({"clip": 0.1}, ["discriminator", "generator"], []),
        ({"clip": 1e6}, [], ["discriminator", "generator"]),
    ],
    ids=str,
)
def test_every_setting_of_the_training_has_an_effect(training, moved, still):
    data = training_set(images().numpy())
    plain, other = (trained(settings(training=more), data)[0].parts for more in ({}, training))
    assert all(change_of(part, plain, other) > 1e-6 for part in moved)
    assert all(change_of(part, plain, other) == 0 for part in still)


def test_both_rates_follow_the_schedule_and_each_network_its_own():
    """Adam's first step moves a weight by its rate, whatever the size of the gradient."""
    data, warm = training_set(images().numpy()), {"max_steps": 1, "lr_warmup": 3}
    for lr, discriminator_lr, steps in ((1e-3, 5e-4, {}), (1e-3, 4e-3, {}), (1e-3, 4e-3, warm)):
        rates = {"lr": lr, "discriminator_lr": discriminator_lr}
        config = settings(training={"max_steps": 1, "checkpoint_every": 1, **rates, **steps})
        model = VAEGAN(config, data.preparation, CPU)
        model.start_training(TrainingContext(data, None, ProcessGroups.single_process(1), 1), None)
        part = 0.25 if steps else 1.0
        run, (event,) = trained(config, data)
        assert event.settings["lr"] == pytest.approx(part * lr)
        for name, rate in (("generator", lr), ("discriminator", discriminator_lr)):
            assert change_of(name, model.parts(), run.parts) == pytest.approx(part * rate, rel=1e-3)


def test_clipping_bounds_the_gradient_of_each_network():
    """Adam's first moment after one step is (1 - 0.5) times the gradient."""
    data = training_set(images().numpy())
    for clip in (None, 0.05):
        run, _ = trained(settings(training={"max_steps": 1, "clip": clip}), data)
        for part, tensors in run.parts.items():
            moments = [tensor.flatten() for name, tensor in tensors.items() if name.endswith("/exp_avg")]
            norm = 2 * float(torch.cat(moments).norm())
            assert norm > 0.1 if clip is None else norm == pytest.approx(0.05, rel=1e-3), (part, norm)


def test_a_run_in_two_halves_is_the_whole_run():
    data, config = training_set(images().numpy()), settings(training={"checkpoint_every": 3})
    events = list(training_loop(config, data, (0,), CPU, Start()))
    middle, end = (event for event in events if isinstance(event, Snapshot))
    assert (middle.step, end.step) == (3, 6)
    *_, again = training_loop(config, data, (0,), CPU, Start(middle.step, middle.parts))
    assert_bitwise(again.parts, end.parts)
    assert any(not torch.equal(middle.parts["generator"][name], t) for name, t in end.parts["generator"].items())


@pytest.fixture(scope="module")
def replicas(tmp_path_factory):
    """The command with minibatches in two shards, in one process."""
    return shared(tmp_path_factory.mktemp("replicas") / "local", "local")


def shared(out, engine, *more):
    line = ["--max-steps", "12", "--checkpoint-every", "6", "--log-every", "1", "--replicas", "2", "--engine", engine]
    augment([*line, "--out", str(out), *SMALL, *more])
    return out


def test_two_actors_give_the_numbers_of_one_process(ray_cluster, replicas, tmp_path, capsys):
    out = shared(tmp_path / "ray", "ray")
    assert "2 Ray actors" in capsys.readouterr().out
    (one, _), (other, _) = (latest_checkpoint(folder / "checkpoints") for folder in (out, replicas))
    assert one.step == other.step == 12 and one.parts.keys() == other.parts.keys()
    for part, tensors in one.parts.items():
        assert tensors.keys() == other.parts[part].keys()
        for name, tensor in tensors.items():
            if name.startswith("generators/"):
                assert torch.equal(tensor, other.parts[part][name]), name
            else:
                torch.testing.assert_close(tensor, other.parts[part][name], rtol=1e-3, atol=1e-5)
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (out, replicas))
    assert (ours["engine"], ours["n_workers"], theirs["engine"], theirs["n_workers"]) == ("ray", 2, "local", 1)
    for name in ("copy_distance", "noise_free_distance", "copy_diversity"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
    assert {"generators/latent", "generators/latent/1"} <= set(one.parts["generator"])


@pytest.mark.slow
def test_a_checkpoint_of_actors_is_resumed_in_one_process(ray_cluster, replicas, tmp_path):
    out = shared(tmp_path / "ray", "ray", "--max-steps", "6")
    shared(out, "local", "--resume")
    one, other = (latest_checkpoint(folder / "checkpoints")[0] for folder in (out, replicas))
    assert one.step == other.step == 12
    for name, tensor in one.parts["generator"].items():
        if name.startswith("network/"):
            torch.testing.assert_close(tensor, other.parts["generator"][name], rtol=1e-3, atol=1e-5)


def test_files_of_older_versions_are_read(tmp_path):
    """They name the section of the networks so, and have threads and device with the training."""
    old = {
        "seed": 3,
        "input": {"data": "digits", "subset": 100},
        "networks": {"latent_dim": 5, "hidden": [32, 16], "discriminator_hidden": [16]},
        "objective": {"alpha": 0.2},
        "training": {"max_steps": 4, "batch_size": 32, "lr": 0.002, "threads": 1, "device": "cpu"},
    }
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(old))
    read = parse_augment(["--config", str(tmp_path / "old.yaml")]).settings
    assert read == load_config(tmp_path / "old.yaml", "vaegan")
    assert (read.seed, read.model.latent_dim, read.model.hidden, read.objective.alpha) == (3, 5, (32, 16), 0.2)
    assert (read.training.max_steps, read.training.lr) == (4, 0.002)
    assert (read.placement.threads, read.placement.device) == (1, "cpu")
    assert parse_augment(["--config", str(tmp_path / "old.yaml"), "--latent-dim", "7"]).settings.model.latent_dim == 7
    augment(["--config", str(tmp_path / "old.yaml"), "--out", str(tmp_path / "run"), "--engine", "local"])
    assert read_augmenter(tmp_path / "run").shape["latent_dim"] == 5


def test_an_epoch_shows_every_cell_once():
    rows = np.arange(5, 17)
    batches = list(minibatches(rows, 4, 6, seed=2))
    for epoch in (batches[:3], batches[3:]):
        assert sorted(np.concatenate(epoch)) == list(rows)
    assert not np.array_equal(batches[0], batches[3])
    order = MinibatchSampler(rows, 4, 2, ORDER_KEY)  # that of the training loop
    assert all(np.array_equal(order.batch(step), batch) for step, batch in enumerate(batches))
    assert all(len(batch) == 12 for batch in minibatches(rows, 100, 3, seed=2))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "sparse"])
def test_the_unit_is_the_root_mean_square_distance_from_the_mean(form):
    values, rows = images().numpy(), np.arange(10, 40)
    spread = cell_moments(InMemoryMatrix(form(values)), rows)
    mean = values[rows].mean(0)
    np.testing.assert_allclose(spread.mean_g, mean, rtol=1e-5)
    assert spread.rms_distance == pytest.approx(np.sqrt(np.square(values[rows] - mean).sum(1).mean()), rel=1e-5)
    assert cell_moments(InMemoryMatrix(np.ones((4, 3), np.float32)), np.arange(4)).rms_distance == 1.0


@pytest.mark.slow
def test_the_triplet_term_makes_noise_matter():
    data = training_set(images(200).numpy())
    tasks = [
        settings(objective={"alpha": alpha}, training={"max_steps": 200, "batch_size": 64, "lr": 3e-3})
        for alpha in (0.0, 1.0)
    ]
    cells = Cells(data.matrix, np.arange(200), np.arange(0), None)
    idle, busy = (measure(run.augmenter, cells, run.spread, 0) for run in (trained(t, data)[0] for t in tasks))
    assert busy["copy_distance"] > idle["copy_distance"] + 0.1
    assert busy["copy_diversity"] > 2 * idle["copy_diversity"]


def test_quality_tells_copies_that_keep_their_type_from_those_that_do_not():
    centres = torch.eye(3).repeat(1, 4) * 4
    types = np.arange(300) % 3
    values = (centres[types] + 0.1 * torch.randn((300, 12), generator=seeded())).numpy()
    labels = np.array(["a", "b", ""])[types]  # cells of unknown type are no evidence

    class Still(Augmenter):
        def noisy_copy(self, x_ng, generator):
            return self.noise_free_copy(x_ng)

        def noise_free_copy(self, x_ng):
            return x_ng

    class Swap(Still):
        def noisy_copy(self, x_ng, generator):
            return centres[1 - (x_ng @ centres.T).argmax(1).clamp_max(1)]

    cells = Cells(InMemoryMatrix(values), np.arange(0, 200), np.arange(200, 300), labels)
    spread = cell_moments(cells.matrix, cells.train_idx)
    still, swapped = (measure(kind(SHAPE, seeded()), cells, spread, 0) for kind in (Still, Swap))
    assert still["type_kept"] == still["type_true"] == still["classifier_accuracy"] == 1.0
    assert [still["copy_distance"], still["copy_diversity"]] == pytest.approx([0.0, 0.0], abs=1e-4)
    assert swapped["type_kept"] == 0.0
    assert swapped["noise_free_kept"] == 1.0
    assert swapped["distance_between"] > 5 * swapped["distance_within"]


def test_what_is_frozen_is_revived_bit_for_bit_and_trains_no_more():
    net, x = Augmenter(SHAPE, seeded()), images(5)
    frozen = freeze(net, Preparation("images", tuple("abcdefghijkl"), image_shape=(3, 4)))
    for array in frozen.tensors.values():
        array.flags.writeable = False  # as views of Ray's object store are
    copy = Learned(build_augmenter(frozen))
    assert same(weights(copy.augmenter), weights(net))
    assert torch.equal(copy.transform(x, seeded(1)), net.noisy_copy(x, seeded(1)))
    assert not any(p.requires_grad for p in copy.augmenter.parameters())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """An augmenter of the digits by the command itself."""
    out = tmp_path_factory.mktemp("augmenter") / "digits"
    augment(["--max-steps", "60", "--out", str(out), *SMALL])
    return out


def test_the_command_leaves_a_whole_folder_and_says_where(digits):
    line = ["--max-steps", "3", "--out", str(digits.parent / "other"), *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "cplmix_ray.augment", *line], capture_output=True, text=True, check=True
    )
    last = done.stdout.splitlines()[-1]
    assert str(digits.parent / "other") in last
    assert "type" in done.stdout
    expected = {"config.yaml", "augmenter.safetensors", "manifest.json", "metrics.json", "checkpoints", "tensorboard"}
    assert {path.name for path in digits.iterdir()} == expected
    metrics = json.loads((digits / "metrics.json").read_text())
    # After 60 steps a copy looks like any digit: four seeds gave 0.07 to 0.19, where chance is a tenth.
    for name in ("type_kept", "type_true", "noise_free_kept"):
        assert 0.02 < metrics[name] < 0.4, name
    assert metrics["classifier_accuracy"] > 0.93  # four seeds: 0.961 to 0.978
    assert metrics["copy_distance"] == pytest.approx(0.567, abs=0.1)  # four seeds: 0.563 to 0.576
    assert metrics["n_measured"] == 180
    assert metrics["steps"] == 60
    tree = yaml.safe_load((digits / "config.yaml").read_text())
    assert tree["family"] == "vaegan"
    assert tree["model"]["hidden"] == [32, 16]
    assert parse_augment(["--config", str(digits / "config.yaml")]).settings.model.hidden == (32, 16)


def test_a_folder_is_read_as_it_was_written(digits):
    frozen, again = read_augmenter(digits), read_augmenter(digits)
    assert frozen.weights() == (digits / WEIGHTS).read_bytes()
    assert frozen.checksum == again.checksum == json.loads((digits / MANIFEST).read_text())["files"][WEIGHTS]


def test_workers_get_the_augmenter_with_the_cells_and_none_where_no_copy_is_learned(digits):
    source = read_source("digits")
    tree = {"copies": {"copies": ["affine", "learned"], "augmenter": digits.name}}
    data = build_dataset(source, parse_config(tree), root=digits.parent)  # a search's data sets are built elsewhere
    assert data.training.tables.augmenter.checksum == read_augmenter(digits).checksum
    for kinds in (["auto"], ["affine"], ["none"]):
        tree["copies"]["copies"] = kinds
        assert build_dataset(source, parse_config(tree)).training.tables.augmenter is None


OPTIONS = """
    --config --out --resume --family --seed
    --data --metadata --subset --backed --layer --labels-key --state-key --genes --normalise --target-sum
    --hvg --val-fraction --batch-key --covariates
    --latent-dim --noise-dim --hidden --keep-zeros --discriminator-hidden
    --alpha --gamma --triplet --fidelity --smoothness
    --max-steps --epochs --batch-size --lr --lr-schedule --lr-warmup --clip --discriminator-lr
    --log-every --evaluate-every --checkpoint-every --keep-checkpoints
    --engine --ray-address --cluster-grows-to --arms-per-worker --replicas --device --precision --threads
    --collective-timeout --max-failures --train-storage
"""


def test_the_options_of_augment_are_these(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        parse_augment(["--help"])
    assert caught.value.code == 0
    options = re.findall(r"^\W*(?:-h, )?(--[a-z][a-z-]*)", capsys.readouterr().out, flags=re.MULTILINE)
    assert sorted(options) == sorted(["--help", *OPTIONS.split()])
    fields = [
        field for _, part in VAEGANConfig() if isinstance(part, Section) for field in type(part).model_fields.items()
    ]
    assert len({name for name, _ in fields}) == len(fields) == len(OPTIONS.split()) - 5
    assert all(field.description for _, field in fields)


def fails(command, line):
    with pytest.raises(InputError) as caught:
        command(line)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_bad_input_is_one_sentence(digits, tmp_path):
    assert str(digits) in fails(augment, ["--out", str(digits)])
    assert "hidden" in fails(augment, ["--hidden", "0", "--out", str(tmp_path / "a")])
    assert "nothing.h5ad" in fails(augment, ["--data", "nothing.h5ad", "--out", str(tmp_path / "a")])
    (tmp_path / "odd.yaml").write_text("model: {latent: 3}\n")
    assert "model.latent" in fails(augment, ["--config", str(tmp_path / "odd.yaml")])
    (tmp_path / "odd.yaml").write_text("networks: {latent: 3}\n")
    assert "latent" in fails(augment, ["--config", str(tmp_path / "odd.yaml")])
    assert "family" in fails(train, ["--resume", "--family", "cplmixvae", "--out", str(digits)])
    assert not (tmp_path / "a").exists()
    run = ["--engine", "local", "--out", str(tmp_path / "b"), "--max-steps", "2", "--copies", "learned"]
    assert "--augmenter" in fails(train, run)
    assert str(tmp_path) in fails(train, [*run, "--augmenter", str(tmp_path)])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / MANIFEST).write_bytes((digits / MANIFEST).read_bytes())
    (broken / WEIGHTS).write_bytes((digits / WEIGHTS).read_bytes()[:-1] + b"?")
    assert str(broken) in fails(train, [*run, "--augmenter", str(broken)])


def cells_file(path, n=120, g=30, names="gene"):
    draw = np.random.default_rng(0)
    types = np.arange(n) % 3
    rates = 2.0 + 8.0 * (np.arange(g)[None] % 3 == types[:, None])
    obs = pd.DataFrame({"kind": pd.Categorical.from_codes(types, ["a", "b", "c"])}, index=[f"c{i}" for i in range(n)])
    counts = sp.csr_matrix(draw.poisson(rates).astype(np.float32))
    anndata.AnnData(X=counts, obs=obs, var=pd.DataFrame(index=[f"{names}{i}" for i in range(g)])).write_h5ad(path)
    return str(path)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    data = cells_file(folder / "cells.h5ad")
    line = ["--data", data, "--labels-key", "kind", "--max-steps", "40", "--out", str(folder / "augmenter")]
    augment([*line, *SMALL])
    return data, folder / "augmenter"


def test_an_augmenter_refuses_other_cells(digits, cells, tmp_path):
    data, folder = cells
    run = ["--engine", "local", "--max-steps", "2", "--n-categories", "3", "--copies", "learned"]
    other = cells_file(tmp_path / "other.h5ad", names="other")

    def line(data, augmenter, *more):
        return [*run, "--data", data, "--augmenter", str(augmenter), "--out", str(tmp_path / "run"), *more]

    def refuses(words, *named):
        sentence = fails(train, words)
        assert all(re.search(rf"\b{name}\b", sentence) for name in named), sentence

    refuses(line(other, folder), "30", "other.h5ad", "cplmix_ray.augment")
    refuses(line("digits", folder), "log", "images")
    refuses(line(data, digits), "log", "images")
    refuses(line(data, folder, "--target-sum", "100"), "target_sum", "cplmix_ray.augment")
    refuses(line(data, folder, "--likelihood", "nb"), "learned", "counts")
    assert not (tmp_path / "run").exists()


def run_arms(out, augmenter, *more):
    line = ["--engine", "local", "--threads", "1", "--hidden", "32", "--batch-size", "64", "--checkpoint-every", "20"]
    train([*line, "--out", str(out), "--copies", "learned", "--augmenter", str(augmenter), "--max-steps", "30", *more])
    checkpoint, _ = latest_checkpoint(out / "checkpoints")
    return checkpoint


@pytest.mark.slow
def test_a_coupled_run_with_learned_copies_is_the_same_for_the_same_seed(digits, tmp_path):
    one, again = (run_arms(tmp_path / name, digits) for name in ("one", "again"))
    other = run_arms(tmp_path / "other", digits, "--seed", "1")
    assert one.step == 30
    assert all(same(one.parts[arm], again.parts[arm]) for arm in ("arm-0", "arm-1"))
    assert not same(one.parts["arm-0"], other.parts["arm-0"])
    plain = ["--engine", "local", "--hidden", "32", "--batch-size", "64", "--max-steps", "30", "--threads", "1"]
    train([*plain, "--out", str(tmp_path / "plain"), "--copies", "none"])
    checkpoint, _ = latest_checkpoint(tmp_path / "plain" / "checkpoints")
    assert not same(one.parts["arm-0"], checkpoint.parts["arm-0"])


def test_cells_are_trained_on_learned_copies_of_neighbours_and_predicted_without_the_augmenter(cells, tmp_path):
    data, folder = cells
    moved = tmp_path / "moved"
    folder.rename(moved)
    try:
        line = ["--data", data, "--n-categories", "3", "--copies", "neighbours", "learned"]
        checkpoint = run_arms(tmp_path / "run", moved, *line)
    finally:
        moved.rename(folder)  # gone from where the run found it
    assert checkpoint.manifest["augmenter"] == read_augmenter(folder).checksum
    predict(["--run", str(tmp_path / "run"), "--data", data, "--out", str(tmp_path / "result.h5ad")])
    assert "cplmix_category" in anndata.read_h5ad(tmp_path / "result.h5ad").obs
    # The run goes on without the folder that is gone, ...
    go_on = ["--resume", "--data", data, "--n-categories", "3", "--copies", "neighbours", "learned"]
    assert run_arms(tmp_path / "run", moved, *go_on, "--max-steps", "33").step == 33
    # ... with the same augmenter from elsewhere, and with no other.
    assert run_arms(tmp_path / "run", folder, *go_on, "--max-steps", "35").step == 35
    augment(["--data", data, "--max-steps", "2", "--out", str(tmp_path / "another"), *SMALL])
    with pytest.raises(InputError, match="augmenter"):
        run_arms(tmp_path / "run", tmp_path / "another", *go_on, "--max-steps", "40")


def test_all_that_chooses_cells_and_genes_counts_for_the_augmenter_too(cells, tmp_path, capsys):
    """The settings of the input are those of train, and none is passed over in silence."""
    data, _ = cells
    (tmp_path / "known.csv").write_text("sample_name,batch\n" + "".join(f"c{i},one\n" for i in range(100)))
    (tmp_path / "genes.txt").write_text("gene1\ngene2\ngene4\n")
    line = ["--data", data, "--metadata", str(tmp_path / "known.csv"), "--genes", str(tmp_path / "genes.txt")]
    augment([*line, "--subset", "50", "--max-steps", "2", "--out", str(tmp_path / "augmenter"), *SMALL])
    said = capsys.readouterr().out
    assert re.search(r"\b20 .*\b120 cells", said)
    assert re.search(r"\b50 cells x 3\b.*\b45\b.*\b5\b", said)
    assert read_augmenter(tmp_path / "augmenter").preparation.var_names == ("gene1", "gene2", "gene4")


def test_an_augmenter_learns_from_images_that_are_made_as_they_are_read():
    config = VAEGANConfig.model_validate({"input": {"data": "dsprites", "subset": 60}, "training": {"max_steps": 1}})
    data = build_dataset(read_input(config), config).training
    run, (event,) = trained(config, data)
    assert run.augmenter.shape.nonnegative and run.augmenter.shape.pixels
    assert event.step == 1 and all(np.isfinite(value) for (value,) in event.terms.values())
