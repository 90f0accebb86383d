"""Numbers that go wrong: training stops and names what, in which arm and at which step, or carries on soundly.

Everything that is injected goes through the real loop and the real command.
"""

import contextlib
import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import test_engines
import torch
from test_engines import STEPS, config_of, plan_of

from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.train_command import train
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.training.events import Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import NonFiniteError

data = test_engines.data
# The term stands before it, after "The" or "error: The".
MESSAGE = r" of arm (\d+)\b.* at step (\d+)\b.*--lr\b.*--lam\b"


def longer(config, steps: int):
    return config.model_copy(update={"training": config.training.model_copy(update={"max_steps": STEPS + steps})})


def events_of(config, training, start=None):
    return list(train_in_process(plan_of(tuple(range(config.model.n_arms))), config, training, start or Start()))


def test_whatever_tensor_of_an_arm_is_poisoned_that_arm_is_named(data, fault_row):
    """Every weight, statistic and moment of Adam, with a NaN, an infinity and the largest numbers there are.

    None may end in a finished run with poisoned weights: not even a running variance without bound, which training
    itself never looks at, or a moment that only stops its weight.
    """
    config = longer(config_of(2), 3)
    whole = events_of(config_of(2), data.training)[-1]
    times, terms = 0, set()
    names = [name for name, tensor in whole.parts["arm-1"].items() if tensor.is_floating_point() and tensor.dim()]
    assert len(names) > 30
    for at, name in enumerate(names):
        for value in (float("nan"), float("inf"), -float("inf")):
            arms = {arm: {key: tensor.clone() for key, tensor in own.items()} for arm, own in whole.parts.items()}
            flat = arms["arm-1"][name].view(-1)
            flat[at % len(flat)] = value
            with pytest.raises(NonFiniteError) as stopped:
                events_of(config, data.training, Start(STEPS, arms))
            assert stopped.value.unit == 1, (name, value)
            assert STEPS <= stopped.value.step < STEPS + 3, (name, value)
            times, terms = times + 1, terms | {stopped.value.term}
    assert {"reconstruction", "entropy"} <= terms
    fault_row(
        "NaN or infinity in a weight, statistic or moment of one arm", "set in a snapshot", times, "stops, names arm"
    )


@pytest.mark.parametrize("engine", ["packed", pytest.param("actors", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("network/encoder.norms.0.running_var", r"posterior \(validation cells\)"),
        ("adam/category_head.weight/exp_avg_sq", r"adam/category_head.weight/exp_avg_sq"),
    ],
)
def test_a_run_never_scores_or_saves_what_is_not_finite(ray_cluster, data, engine, name, said):
    """Infinities that no term of the objective shows: training does not look at a running variance, and a moment of
    Adam that has no bound only stops its weight for ever."""
    from cplmix_ray.distributed.actors import train_on_actors

    config = config_of(2)
    start = events_of(config, data.training)[-1]
    start.parts["arm-1"][name][:] = float("inf")
    layout, train_them = ([(0, 1)], train_in_process) if engine == "packed" else ([(0,), (1,)], train_on_actors)
    told = []
    with pytest.raises(NonFiniteError, match=rf"{said} of arm 1\b.* step {STEPS}\b"):
        for event in train_them(plan_of(*layout), longer(config, 1), data.training, Start(STEPS, start.parts)):
            told.append(event)
    assert not any(isinstance(event, Snapshot) for event in told)


CELLS, GENES, K = 120, 30, 4


def counts(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(1, 2, (6, GENES))[rng.integers(0, 6, CELLS)]).astype(np.float32)


@pytest.mark.parametrize("likelihood", ["gaussian", "nb", "zinb"])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_a_value_that_turns_bad_after_reading_stops_the_run(likelihood, sparse, fault_row):
    """As of a file that is changed while a run reads from it."""
    config = config_of(2, likelihood=likelihood, n_categories=K)
    matrix = counts()
    adata = anndata.AnnData(sp.csr_matrix(matrix) if sparse else matrix)
    training = build_dataset(source_from_anndata(adata), config).training
    for value in (float("nan"), float("inf"), -float("inf")):
        values = training.matrix.block().copy()
        (values.data if sparse else values[training.train_idx[5]])[7] = value
        changed = {"main": replace(training.main, matrix=InMemoryMatrix(values))}
        with pytest.raises(NonFiniteError, match=MESSAGE):
            events_of(config, replace(training, modalities=changed))
    fault_row(
        f"NaN, Inf, -Inf in the cells under way ({likelihood})", "one value replaced", 3, "stops, names term and arm"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_the_update(data, value, fault_row):
    """Injected into one arm's gradient of one weight, as an overflow in backward would be."""
    from test_objective import CPU, context_of

    from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
    from cplmix_ray.models.cplmixvae.training_step import train_step

    config = config_of(3, likelihood="bernoulli")
    group = ArmGroup(config, data.training.preparation, (0, 1, 2), CPU)
    x_ang = torch.as_tensor(data.training.matrix.block()[:20]).expand(3, -1, -1)

    def poison(gradient):
        gradient = gradient.clone()
        gradient[1].view(-1)[3] = value
        return gradient

    group.network.category_head.weight.register_hook(poison)
    before = [parameter.detach().clone() for parameter in group.network.parameters()]
    with pytest.raises(NonFiniteError, match=r"\bgradient of arm 1\b.* step 7\b"):
        train_step(group, context_of(config), x_ang, 7)
    assert all(torch.equal(*pair) for pair in zip(before, group.network.parameters(), strict=True))
    fault_row("NaN or infinity in a gradient", "one value of one arm", 1, "stops before the update, names arm and step")


def run(folder: Path, matrix: np.ndarray, line: str) -> tuple[int, str]:
    """Exit status and what stands on stderr of the command on these cells."""
    folder.mkdir(exist_ok=True)
    anndata.AnnData(sp.csr_matrix(matrix)).write_h5ad(folder / "cells.h5ad")
    words = ["--data", str(folder / "cells.h5ad"), "--out", str(folder / "out"), "--engine", "local", *line.split()]
    for name, value in {"--n-categories": K, "--max-steps": 20, "--batch-size": 32, "--threads": 1}.items():
        words += [] if name in words else [name, str(value)]
    words += [] if {"--hidden", "--preset"} & set(words) else ["--hidden", "16"]
    words += [] if "--preset" in words else ["--preset", "published"]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["train", *words])
        try:
            run_command(train)
        except SystemExit as left:
            return int(left.code or 0), said.getvalue()
    return 0, said.getvalue()


def assert_sound(out: Path, n_categories: int) -> None:
    """All that was written is finite, and the posteriors are distributions."""
    metrics = json.loads((out / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert metrics["steps"] == 20
    result = anndata.read_h5ad(out / "result.h5ad")
    probs_nk = result.obsm["cplmix_probs"]
    assert probs_nk.shape[1] == n_categories
    np.testing.assert_allclose(probs_nk.sum(axis=1), 1, atol=1e-4)
    assert np.isfinite(result.obsm["X_cplmix"]).all() and np.isfinite(result.obs["cplmix_confidence"]).all()


HARSH = [
    ("--lam 1e30", "gradient"),
    ("--lam 1e38", "loss"),
    ("--lr 1e10", "reconstruction"),
    ("--lr 1e30", "entropy"),
    ("--lr 1e30 --n-arms 1", "entropy"),
    ("--lr 1e38 --max-steps 1", "posterior (validation cells)"),
    ("--lr 1e38 --max-steps 1 --val-fraction 0", "encoder.linears.0.weight"),
    ("--beta 1e30", "gradient"),
    ("--tau 1e-30", "coupling"),
    ("--coupling agreement --marginal 1e30", "gradient"),
    ("--lr 10", None),
    ("--lr 1e3 --clip 10", None),
    ("--batch-size 1", None),
    ("--batch-size 1 --batch-norm False", None),
    ("--batch-size 1 --val-fraction 0 --likelihood nb", None),
    ("--n-categories 1", None),
    ("--n-categories 100", None),
    ("--tau 1e-6", None),
    ("--gumbel-temperature 1e-30", None),
    ("--sigma-floor 1e-30", None),
    ("--clip 1e-30", None),
    ("--target-sum 1e12", None),
]


def test_harsh_settings_stop_with_the_term_arm_and_step_or_end_soundly(tmp_path, fault_row):
    stopped = 0
    for number, (line, term) in enumerate(HARSH):
        status, said = run(tmp_path / str(number), counts(), line)
        if term is None:
            assert status == 0, (line, said)
            n_categories = int(re.findall(r"--n-categories (\d+)", line + f" --n-categories {K}")[0])
            assert_sound(tmp_path / str(number) / "out", n_categories)
        else:
            stopped += 1
            assert status == 1, (line, said)
            assert re.search(rf"\b{re.escape(term)}{MESSAGE}", said), (line, said)
            assert not (tmp_path / str(number) / "out" / "result.h5ad").exists(), line
            assert len(said.splitlines()) == 1 and "Traceback" not in said
    fault_row("settings far out (lambda, lr, tau, beta, batch of one, ...)", "20 steps each", len(HARSH),
              f"{stopped} stop with term, arm and step; {len(HARSH) - stopped} end with finite results")  # fmt: skip


def some_empty() -> np.ndarray:
    matrix = counts()
    matrix[::7] = 0
    return matrix


def constant_genes() -> np.ndarray:
    matrix = counts()
    matrix[:, ::2] = 3
    return matrix


def huge_count() -> np.ndarray:
    matrix = counts()
    matrix[5, 3] = 1e9
    return matrix


def one_value(value: float) -> np.ndarray:
    return np.full((CELLS, GENES), value, np.float32)


@pytest.mark.slow
def test_poor_data_is_carried_on_with_soundly_or_refused_in_words(tmp_path, fault_row):
    """Cells without a count, genes that never vary, one gene; and data in which nothing varies at all."""
    sound = [some_empty(), constant_genes(), huge_count(), counts()[:, :1], counts()[:K]]
    flat = [one_value(0), one_value(3), np.repeat(counts()[:1], CELLS, axis=0)]
    lines = ["", "--likelihood nb", f"--preset cells --n-categories {K}"]
    for case, matrix in enumerate([*sound, *flat]):
        for number, line in enumerate(lines):
            folder = tmp_path / f"{case}-{number}"
            status, said = run(folder, matrix, line)
            if case < len(sound):
                assert status == 0, (case, line, said)
                assert_sound(folder / "out", K)
            else:
                assert status == 2, (case, line, said)
                assert "cells.h5ad" in said and "gene" in said
                assert len(said.splitlines()) == 1 and not (folder / "out").exists()
    fault_row("empty cells, constant genes, one gene, one huge count, as many cells as categories", "made-up cells",
              3 * len(sound), "ends with finite results")  # fmt: skip
    fault_row("cells that are all alike", "made-up cells", 3 * len(flat), "refused in a sentence, exit 2")


@pytest.mark.slow
@pytest.mark.parametrize("backed", ["yes", "no"])
def test_poor_data_on_disk(tmp_path, backed):
    for case, (matrix, status) in enumerate([(some_empty(), 0), (constant_genes(), 0), (one_value(3), 2)]):
        left, said = run(tmp_path / f"{case}", matrix, f"--backed {backed}")
        assert left == status, said
