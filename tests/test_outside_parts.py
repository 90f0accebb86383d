"""A likelihood, a coupling and an augmentation that this file registers, each chosen by name and trained."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cplmix_ray.augmentations.augmentation import Augmentation, register_augmentation
from cplmix_ray.config.files import load_config, parse_config
from cplmix_ray.couplings.coupling import register_coupling
from cplmix_ray.couplings.distances import SquaredDistance
from cplmix_ray.data.io.read import read_source
from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributions.likelihood import Likelihood, register_likelihood
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.training.events import Logged
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.extensions import load_extensions

DEGREES = 4.0


class StudentT(Likelihood):
    """Student's t distribution with four degrees of freedom and unit scale around the decoder's output."""

    kinds = ("images", "log")

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        half = (DEGREES + 1) / 2
        constant = math.lgamma(half) - math.lgamma(DEGREES / 2) - 0.5 * math.log(DEGREES * math.pi)
        return (constant - half * torch.log1p((x_ang - out_ang).square() / DEGREES)).sum(-1)

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        return out_ang


class Hellinger(SquaredDistance):
    """Squared Euclidean distance between the square roots of the probabilities."""

    def embed(self, log_q_ank: Tensor) -> tuple[Tensor, Tensor]:
        return (0.5 * log_q_ank).exp(), log_q_ank.new_zeros(len(log_q_ank))


@dataclass(frozen=True)
class Dimmed(Augmentation):
    """Each image times a factor between ``least`` and 1."""

    least: float

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        draw_n1 = torch.rand((len(x_ng), 1), generator=generator, device=generator.device)
        return x_ng * (self.least + (1 - self.least) * draw_n1)


register_likelihood("student_t", StudentT())
register_coupling("hellinger", lambda n_arms, sigma_floor, shards: Hellinger(n_arms))
register_augmentation("dimmed", lambda inputs: Dimmed(inputs.settings.zoom), kinds=("images",))

STEPS = 40


def config_of(**sections):
    tree = {
        "model": {"hidden": [24], "bottleneck": 8},
        "copies": {"copies": ["none"]},
        "training": {"max_steps": STEPS, "batch_size": 64, "log_every": 1, "evaluate_every": STEPS},
    }
    names = {*tree, *sections}
    return parse_config({"seed": 3, **{name: {**tree.get(name, {}), **sections.get(name, {})} for name in names}})


def trained(**sections) -> tuple[np.ndarray, np.ndarray]:
    """Reconstruction of every step and arm, and the distance between the arms at every step."""
    config = config_of(**sections)
    data = build_dataset(read_source("digits"), config)
    events = [
        event
        for event in train_in_process(Plan("local", ((0, 1),), False, ""), config, data.training, Start())
        if isinstance(event, Logged)
    ]
    return np.array([e.terms["reconstruction"] for e in events]), np.array([e.shared["distance"] for e in events])


def test_a_likelihood_is_what_is_minimised():
    x_ng, out_ng = torch.rand(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    expected_n = torch.distributions.StudentT(DEGREES, out_ng).log_prob(x_ng).sum(-1)
    torch.testing.assert_close(StudentT().log_prob(x_ng, out_ng), expected_n)
    losses, _ = trained(model={"likelihood": "student_t"})
    # A fit without error would leave this; twice as far from it at the start.
    floor = -64 * math.lgamma(2.5) + 64 * math.lgamma(2.0) + 32 * math.log(4 * math.pi)
    assert losses[-5:].mean() - floor < 0.5 * (losses[0].mean() - floor)
    assert (losses > floor).all()


def test_a_coupling_draws_the_arms_together():
    _, apart = trained(objective={"coupling": "hellinger", "lam": 0.0})
    _, near = trained(objective={"coupling": "hellinger", "lam": 50.0})
    assert near[0] == apart[0] > 0  # the same arms at the start
    assert near[-5:].mean() < 0.5 * apart[-5:].mean()
    assert (apart < 2).all()  # of two points on the unit sphere with no negative coordinate


def test_an_augmentation_changes_what_the_arms_see_in_its_place_in_the_chain():
    plain, _ = trained()
    same, _ = trained(copies={"copies": ["dimmed"], "zoom": 0.999999})
    dimmed, _ = trained(copies={"copies": ["affine", "dimmed"], "zoom": 0.1})
    np.testing.assert_allclose(same[0], plain[0], rtol=1e-3)
    assert (np.abs(dimmed[0] - plain[0]) > 0.1).all()
    assert dimmed[-5:].mean() < 0.8 * dimmed[0].mean()


@pytest.mark.parametrize(
    ("section", "own"),
    [("model.likelihood", "student_t"), ("objective.coupling", "hellinger"), ("copies.copies", "dimmed")],
)
def test_a_name_that_nobody_registered_is_refused_with_those_that_are_known(section, own):
    outer, inner = section.split(".")
    value = ["nobodys"] if inner == "copies" else "nobodys"
    with pytest.raises(InputError, match=section) as refused:
        parse_config({outer: {inner: value}})
    assert own in str(refused.value)


def test_what_is_registered_is_offered_only_for_its_kind_of_data(tmp_path):
    table = tmp_path / "cells.csv"
    values = np.random.default_rng(0).random((30, 4))
    lines = ["cell,a,b,c,d", *(f"c{i},{','.join(f'{v:.4f}' for v in row)}" for i, row in enumerate(values))]
    table.write_text("\n".join(lines))
    cells = {"input": {"data": str(table)}, "model": {"n_categories": 2}}
    with pytest.raises(InputError, match="dimmed"):
        build_dataset(read_source(str(table)), parse_config({**cells, "copies": {"copies": ["dimmed"]}}))
    tree = {**cells, "model": {"n_categories": 2, "likelihood": "bernoulli"}, "copies": {"copies": ["none"]}}
    with pytest.raises(InputError, match="student_t"):
        build_dataset(read_source(str(table)), parse_config(tree))


@pytest.mark.parametrize("name", ["student_t", "nb"])
def test_a_name_that_is_taken_is_refused(name):
    with pytest.raises(ValueError, match=name):
        register_likelihood(name, StudentT())


def test_counts_and_other_kinds_of_data_do_not_mix():
    class Mixed(StudentT):
        kinds = ("log", "counts")

    with pytest.raises(ValueError, match="mixed"):
        register_likelihood("mixed", Mixed())


def test_an_extension_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv("CPLMIX_RAY_EXTENSIONS", "math, no_such_module_of_anybody")
    with pytest.raises(InputError, match="no_such_module_of_anybody"):
        load_extensions()


def command(out: Path, *more: str, **environment: str) -> subprocess.CompletedProcess:
    line = ["--copies", "dimmed", "--likelihood", "student_t", "--coupling", "hellinger", "--max-steps", "6"]
    return subprocess.run(
        [sys.executable, "-m", "cplmix_ray.train", "--out", str(out), "--threads", "1", *line, *more],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )


def test_the_command_and_its_actors_know_what_an_extension_registers(tmp_path):
    """In processes of their own, which import this file because the environment names it."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    metrics = []
    for engine in ("local", "ray"):
        out = tmp_path / engine
        done = command(out, "--engine", engine, CPLMIX_RAY_EXTENSIONS="test_outside_parts", PYTHONPATH=path)
        assert done.returncode == 0, done.stderr
        metrics.append(json.loads((out / "metrics.json").read_text()))
    assert metrics[0]["reconstruction"] == pytest.approx(metrics[1]["reconstruction"], rel=1e-4)
    assert load_config(tmp_path / "ray" / "config.yaml").objective.coupling == "hellinger"


def test_the_command_refuses_a_name_whose_extension_is_not_named(tmp_path):
    done = command(tmp_path / "run", CPLMIX_RAY_EXTENSIONS="")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert any(name in done.stderr for name in ("dimmed", "student_t", "hellinger"))
    assert not (tmp_path / "run").exists()
