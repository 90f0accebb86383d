"""Modules that take seconds to import are only imported where they are used."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "torch._dynamo", "ray", "sklearn", "scipy.stats", "pandas", "anndata", "matplotlib", "tensorboard")
"""Each takes from tenths of a second to seconds."""
COMMANDS = ("train", "tune", "evaluate", "predict", "augment", "simulate", "bench")


def loaded_by(code: str) -> set[str]:
    """The heavy modules that a fresh process has loaded after running the code."""
    tell = f"import sys, json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("cplmix_ray", set()),
        ("cplmix_ray.distributed.engines", {"torch"}),  # Ray only where it is used
    ],
)
def test_a_package_loads_only_what_it_needs(module, needed):
    assert loaded_by(f"import {module}") == needed


def test_help_of_no_command_waits_for_anything():
    """All in one process, each after the other: none loads what it should not."""
    code = f"""
import contextlib, importlib, io, sys
for command in {COMMANDS!r}:
    entry = importlib.import_module(f"cplmix_ray.{{command}}")
    for words in [["--help"], *([["speed", "--help"], ["accuracy", "--help"]] if command == "bench" else [])]:
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            getattr(entry, command)(words)
        assert "usage" in said.getvalue(), command
"""
    assert loaded_by(code) == set()


def test_a_worker_trains_without_torchs_compiler_and_whatever_reads_cells():
    """What an actor does, from its imports to its first steps; torch's own optimisers would load the compiler."""
    code = """
from cplmix_ray.distributed.worker import training_loop, Start
import numpy as np, torch
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.cplmixvae.dataset import ArmTables
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.training_set import MAIN, Modality, TrainingSet
settings = {"copies": {"copies": ["none"]}, "training": {"max_steps": 2, "batch_size": 8}}
config = CplMixVAEConfig.model_validate(settings)
every = np.arange(16)
names = tuple(f"g{i}" for i in range(5))
cells = Modality(InMemoryMatrix(np.ones((16, 5), np.float32)), Preparation("log", names))
data = TrainingSet({MAIN: cells}, every, every[:0], ArmTables())
assert len(list(training_loop(config, data, [0, 1], torch.device("cpu"), Start()))) == 2
"""
    assert loaded_by(code) == {"torch", "ray"}
