"""A model family that only this file defines: two autoencoders of different modalities whose latent codes agree.

Part "rna" reads log-expression from X, part "protein" reads counts from ``obsm["protein"]``, which some cells lack.
Each has its own width and loss. They are two units, which may be on two workers and exchange their codes at each step.
A column of obs, the batch, enters the decoder of "rna".
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import Field, model_validator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from cplmix_ray.checkpoints.checkpoint import latest_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import parse_train
from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.config.families import register_config
from cplmix_ray.config.files import load_config, parse_config
from cplmix_ray.config.run import RunConfig
from cplmix_ray.config.section import Section, Width
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import Preparation, check_finite
from cplmix_ray.data.preprocessing.prepare_again import prepare_again
from cplmix_ray.data.source import Source
from cplmix_ray.data.splits import split_source
from cplmix_ray.data.training_set import Modality, PreparedCells, TrainingSet
from cplmix_ray.distributed.engines import train_in_process
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.models.base import (
    Batch,
    CellBlock,
    Family,
    Model,
    Outcome,
    Output,
    Parts,
    Report,
    Scores,
    TrainingContext,
)
from cplmix_ray.models.finite_checks import require_finite
from cplmix_ray.models.registry import build_dataset, register_family
from cplmix_ray.models.resolve import resolve_settings
from cplmix_ray.models.schedules import lr_at
from cplmix_ray.nn.adam import Adam
from cplmix_ray.runs.results import write_result
from cplmix_ray.runs.resume import checkpoint_to_resume
from cplmix_ray.runs.run import RunResult, run_training
from cplmix_ray.training.events import Logged, Snapshot
from cplmix_ray.training.loop import Start
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.randomness import AUGMENT, INIT, arm_generators

NAME, RNA, PROTEIN = "paired", "rna", "protein"
PARTS = (RNA, PROTEIN)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


# The settings


class SharedSettings(Section):
    """What both parts have in common."""

    latent_dim: Width = Field(3, description="Dimensions d of the latent codes.")
    agreement: float = Field(1.0, ge=0, description="Weight of the squared distance between the codes of a cell.")
    noise: float = Field(0.1, ge=0, description="Standard deviation of noise on the input.")
    batch_key: str | None = Field(None, description="Column of obs that enters the decoder of rna.")
    batches: tuple[str, ...] = Field((), strict=False, description="Its levels; none: those in the data.")


class RnaSettings(Section):
    """The autoencoder of X."""

    width: Width = Field(24, description="Width of its hidden layers.")


class ProteinSettings(Section):
    """The autoencoder of proteins."""

    width: Width = Field(6, description="Width of its hidden layers.")


class PairedConfig(RunConfig):
    """Settings of a run of paired autoencoders."""

    family: Literal["paired"] = Field(NAME, description="Model family.")
    model: SharedSettings = SharedSettings()
    rna: RnaSettings = RnaSettings()
    protein: ProteinSettings = ProteinSettings()

    @model_validator(mode="after")
    def _whole_minibatches(self) -> "PairedConfig":
        if self.placement.replicas > 1:
            raise ValueError("placement.replicas: paired autoencoders do not share minibatches")
        return self

    def width_of(self, part: str) -> int:
        return self.rna.width if part == RNA else self.protein.width


# The networks


class Autoencoder(nn.Module):
    """Two layers each way; the decoder also sees the covariate's level."""

    def __init__(self, n_features: int, width: int, latent_dim: int, n_levels: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_features, width), nn.Tanh(), nn.Linear(width, latent_dim))
        self.decoder = nn.Sequential(nn.Linear(latent_dim + n_levels, width), nn.Tanh(), nn.Linear(width, n_features))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        for parameter in self.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)

    def decode(self, z_nd: Tensor, level_nl: Tensor) -> Tensor:
        return self.decoder(torch.cat([z_nd, level_nl], dim=1))


def loss_of(part: str, x_ng: Tensor, out_ng: Tensor) -> Tensor:
    """-log p(x) up to a constant, shape (n,): normal with unit variance for RNA, Poisson for proteins."""
    return (0.5 * (x_ng - out_ng).square() if part == RNA else out_ng.exp() - x_ng * out_ng).sum(1)


class PairedAutoencoders(Model):
    """One or both autoencoders."""

    def __init__(self, config: PairedConfig, preparations: Mapping[str, Preparation], units: Sequence[int], device):
        self.config, self.units, self.device = config, tuple(units), device
        self.networks = {}
        for part in (PARTS[unit] for unit in units):
            n_features = len(preparations[part].var_names)
            n_levels = len(config.model.batches) if part == RNA else 0
            network = Autoencoder(n_features, config.width_of(part), config.model.latent_dim, n_levels)
            self.networks[part] = network.to(device)
        self.optimisers: dict[str, Adam] = {}

    def start_training(self, context: TrainingContext, saved: Parts | None) -> None:
        self.context, self.codes_sum = context, UnitSum(context.groups.units)
        self.noise = {}
        for unit, (part, network) in zip(self.units, self.networks.items(), strict=True):
            generators = arm_generators(self.config.seed, unit, self.device, (INIT, AUGMENT))
            network.draw(generators[INIT])
            self.noise[part] = generators[AUGMENT]
            self.optimisers[part] = Adam(network.parameters(), self.config.training.lr)
        if saved is not None:
            self.load_weights(saved)
            self._restore(saved)

    def training_step(self, batch: Batch, step: int) -> Report:
        block = CellBlock.of(self.context.data, batch.rows, self._read(batch))
        inputs = {part: self._values(block, part) for part in self.networks}
        codes = {part: self._encode(part, self._noisy(part, x_ng)) for part, x_ng in inputs.items()}
        paired_n = torch.stack([self._present(block, part) for part in PARTS]).all(0)
        sent_und = torch.stack(list(codes.values())) * paired_n[:, None]
        pending = self.codes_sum.launch(sent_und, sent_und.new_zeros(len(self.units)))
        reconstruction = torch.stack(
            [_mean(self._loss(block, part, z_nd), self._present(block, part)) for part, z_nd in codes.items()]
        )
        sum_nd, _ = pending.wait()
        others_und = sum_nd - sent_und.detach()
        distance = torch.stack([_mean(gap_nd.square().sum(1), paired_n) for gap_nd in sent_und - others_und])
        loss = reconstruction + 0.5 * self.config.model.agreement * distance
        terms = {"reconstruction": reconstruction, "distance": distance, "loss": loss}
        require_finite(terms, self.units, step, PairedFamily.unit)
        for optimiser in self.optimisers.values():
            optimiser.zero_grad()
        loss.sum().backward()
        lr = lr_at(step, self.context.n_steps, self.config.training)
        for optimiser in self.optimisers.values():
            optimiser.param_groups[0]["lr"] = lr
            optimiser.step()
        reported = {name: value.detach() for name, value in terms.items()}
        return Report(reported, {}, {"lr": lr}, self.codes_sum.waited, self.codes_sum.sent)

    def parts(self) -> Parts:
        return {part: {name: t.detach().cpu().clone() for name, t in self._named(part)} for part in self.networks}

    def load_weights(self, saved: Parts) -> None:
        for part, network in self.networks.items():
            weights = {name: saved[part][f"network/{name}"] for name in network.state_dict()}
            network.load_state_dict(weights)

    def infer(self, cells: CellBlock, wanted: Collection[str]) -> dict[str, Tensor]:
        codes = {part: self._encode(part, self._values(cells, part)) for part in self.networks}
        found = {"code_und": torch.stack(list(codes.values()))}
        if "loss_un" in wanted:
            losses = [self._loss(cells, part, z_nd) * self._present(cells, part) for part, z_nd in codes.items()]
            found["loss_un"] = torch.stack(losses)
        if {"latent_nd", "protein_ng"} & set(wanted):
            present_un = torch.stack([self._present(cells, part) for part in PARTS])
            found["latent_nd"] = (found["code_und"] * present_un[..., None]).sum(0) / present_un.sum(0)[:, None]
            found["protein_ng"] = self.networks[PROTEIN].decode(codes[RNA], codes[RNA][:, :0]).exp()
        return {name: found[name] for name in wanted}

    def _read(self, batch: Batch) -> dict[str, Any]:
        idx_n = torch.as_tensor(batch.rows)
        return {part: batch.cells.rows(idx_n, part) for part in self.networks}

    def _present(self, cells: CellBlock, part: str) -> Tensor:
        everywhere_n = np.ones(len(cells), bool)
        return torch.as_tensor(cells.present.get(part, everywhere_n)).to(self.device)

    def _values(self, cells: CellBlock, part: str) -> Tensor:
        """What was measured, and zero where nothing was."""
        x_ng = cells.rows[part].dense()
        return torch.where(self._present(cells, part)[:, None], x_ng, torch.zeros_like(x_ng))

    def _noisy(self, part: str, x_ng: Tensor) -> Tensor:
        noise_ng = torch.randn(x_ng.shape, generator=self.noise[part], device=self.device)
        return x_ng + self.config.model.noise * noise_ng

    def _encode(self, part: str, x_ng: Tensor) -> Tensor:
        return self.networks[part].encoder(x_ng if part == RNA else x_ng.clamp_min(0).log1p())

    def _loss(self, cells: CellBlock, part: str, z_nd: Tensor) -> Tensor:
        level_nl = z_nd[:, :0]
        if part == RNA and self.config.model.batches:
            column_n = cells.covariates[str(self.config.model.batch_key)]
            known_nl = column_n[:, None] == np.array(self.config.model.batches)
            level_nl = torch.as_tensor(known_nl, dtype=torch.float32, device=self.device)
        return loss_of(part, self._values(cells, part), self.networks[part].decode(z_nd, level_nl))

    def _named(self, part: str) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.networks[part].named_parameters():
            yield f"network/{name}", parameter
            if part in self.optimisers:
                for moment, tensor in self.optimisers[part].state.get(parameter, {}).items():
                    yield f"adam/{name}/{moment}", tensor
        if part in self.optimisers:
            yield "generators/noise", self.noise[part].get_state()

    def _restore(self, saved: Parts) -> None:
        for part, network in self.networks.items():
            self.noise[part].set_state(saved[part]["generators/noise"])
            for name, parameter in network.named_parameters():
                moments = {moment: saved[part][f"adam/{name}/{moment}"].to(self.device) for moment in _MOMENTS}
                self.optimisers[part].state[parameter] = moments


def _mean(value_n: Tensor, counts_n: Tensor) -> Tensor:
    """Mean over the cells that count; 0 where none does."""
    return (value_n * counts_n).sum() / counts_n.sum().clamp_min(1)


# The family


class PairedFamily(Family):
    """Autoencoders of RNA and proteins, each a unit of one part."""

    name: ClassVar[str] = NAME
    config: ClassVar[type[RunConfig]] = PairedConfig
    unit: ClassVar[str] = "autoencoder"
    outputs: ClassVar[dict[str, Output]] = {
        "code_und": Output("code", 1, by_unit=True),
        "loss_un": Output("reconstruction", 1, by_unit=True, predicted=False),
        "latent_nd": Output("latent mean", 0),
        "protein_ng": Output("protein predicted from RNA", 0),
    }
    validated: ClassVar[tuple[str, ...]] = ("loss_un",)

    def units(self, config: RunConfig) -> tuple[tuple[str, ...], ...]:
        return ((RNA,), (PROTEIN,))

    def tags(self, config: RunConfig) -> list[str]:
        return list(PARTS)

    def check_source(self, source: Source, config: RunConfig) -> None:
        if PROTEIN not in source.adata.obsm:
            raise InputError(f"{source.name} has no obsm['{PROTEIN}'] with the proteins of its cells.")

    def dataset_keys(self, config: RunConfig) -> tuple[object, object]:
        return config.input, (config.input, config.seed, _own(config).model.batch_key)

    def build_dataset(self, source: Source, config: RunConfig, root: str | Path = "") -> Dataset:
        self.check_source(source, config)
        check_finite(source.matrix, source)
        fitted = fit_preparation(source, config.input)
        names = tuple(source.adata.obsm[PROTEIN].columns)
        modalities = {
            RNA: Modality(fitted.matrix, fitted.preparation),
            PROTEIN: _proteins(source, Preparation("counts", names)),
        }
        train_idx, val_idx = split_source(source, config.input.val_fraction, config.seed)
        training = TrainingSet(modalities, train_idx, val_idx, covariates=_covariates(source, _own(config)))
        return Dataset(training, source.labels_n, source.name, (*source.notes, *fitted.notes))

    def resolve(self, config: RunConfig, data: TrainingSet) -> RunConfig:
        own = _own(config)
        if own.model.batch_key is None or own.model.batches:
            return own
        return own.with_settings(model={"batches": tuple(np.unique(data.covariates[own.model.batch_key]).tolist())})

    def prepare_again(
        self, source: Source, config: RunConfig, preparations: Mapping[str, Preparation]
    ) -> PreparedCells:
        covariates = _covariates(source, _own(config))
        for values_n in covariates.values():
            unknown = set(values_n.tolist()) - set(_own(config).model.batches)
            if unknown:
                raise InputError(f"{source.name} has cells of the batch {min(unknown)}, which the model does not know.")
        rna = Modality(prepare_again(source, preparations[RNA]), preparations[RNA])
        modalities = {RNA: rna, PROTEIN: _proteins(source, preparations[PROTEIN])}
        return PreparedCells(modalities, covariates=covariates)

    def build(
        self, config: RunConfig, preparations: Mapping[str, Preparation], units: Sequence[int], device: torch.device
    ) -> Model:
        return PairedAutoencoders(_own(config), preparations, units, device)

    def validation_scores(self, outputs: Mapping[str, np.ndarray], data: Dataset) -> tuple[Scores, list[Scores]]:
        present = present_in(data.training, data.training.val_idx)
        return {}, [{"val_reconstruction": value} for value in mean_losses(outputs, present)]

    def evaluate(
        self,
        infer: Callable[[], dict[str, np.ndarray]],
        model: Model,
        data: Dataset,
        config: RunConfig,
        say: Callable[[str], None],
    ) -> Outcome:
        outputs = infer()
        losses = mean_losses(outputs, present_in(data.training, slice(None)))
        return Outcome(outputs, {f"reconstruction_{part}": loss for part, loss in zip(PARTS, losses, strict=True)})

    def scores(
        self, outputs: Mapping[str, np.ndarray], source: Source, config: RunConfig
    ) -> tuple[Scores, list[Scores]]:
        present = [None, _measured(source)]
        return {}, [{"reconstruction": value} for value in mean_losses(outputs, present)]


def _own(config: RunConfig) -> PairedConfig:
    assert isinstance(config, PairedConfig)
    return config


def _measured(source: Source) -> np.ndarray:
    """Which cells have proteins."""
    if PROTEIN not in source.adata.obsm:
        return np.zeros(source.n_cells, bool)
    return source.adata.obsm[PROTEIN].notna().to_numpy().all(axis=1)


def _proteins(source: Source, preparation: Preparation) -> Modality:
    """The proteins of all cells, NaN where they were not measured; none have any where the object has no table."""
    values_np = np.full((source.n_cells, len(preparation.var_names)), np.nan, np.float32)
    if PROTEIN in source.adata.obsm:
        table = source.adata.obsm[PROTEIN]
        values_np = table.iloc[:, columns_of(table.columns, preparation.var_names, source.name)].to_numpy(np.float32)
    return Modality(InMemoryMatrix(np.ascontiguousarray(values_np)), preparation, _measured(source))


def _covariates(source: Source, config: PairedConfig) -> dict[str, np.ndarray]:
    key = config.model.batch_key
    return {} if key is None else {key: source.adata.obs[key].astype(str).to_numpy(str)}


def present_in(cells: PreparedCells, idx: Any) -> list[np.ndarray | None]:
    masks = [cells.modalities[part].present_n for part in PARTS]
    return [None if mask_n is None else mask_n[idx] for mask_n in masks]


def mean_losses(outputs: Mapping[str, np.ndarray], present: Sequence[np.ndarray | None]) -> list[float]:
    """Each part's loss over the cells that were measured."""
    pairs = zip(outputs["loss_un"], present, strict=True)
    return [float(loss_n.mean() if mask_n is None else loss_n[mask_n].mean()) for loss_n, mask_n in pairs]


register_family(PairedFamily())


# The tests

STEPS, N_CELLS, N_GENES, N_PROTEINS = 40, 120, 20, 5
BATCHES = ("first", "second", "third")


def cells(n: int = N_CELLS, seed: int = 0) -> anndata.AnnData:
    """Cells of a two-dimensional state that both modalities show; a shift of each batch is seen in RNA alone."""
    fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
    to_rna, to_protein = fixed.normal(size=(2, N_GENES)), fixed.normal(size=(2, N_PROTEINS))
    shift = 2 * fixed.normal(size=(3, N_GENES))
    state_n2, batch_n = rng.normal(size=(n, 2)), rng.integers(3, size=n)
    rna_ng = state_n2 @ to_rna + shift[batch_n] + 0.3 * rng.normal(size=(n, N_GENES))
    protein_np = rng.poisson(np.exp(1 + 0.7 * np.tanh(state_n2 @ to_protein))).astype(float)
    protein_np[rng.random(n) < 0.3] = np.nan
    names = [f"cell{i}" for i in range(n)]
    adata = anndata.AnnData(rna_ng.astype(np.float32), pd.DataFrame({"batch": np.array(BATCHES)[batch_n]}, index=names))
    adata.var_names = [f"gene{i}" for i in range(N_GENES)]
    adata.obsm[PROTEIN] = pd.DataFrame(protein_np, index=names, columns=[f"P{i}" for i in range(N_PROTEINS)])
    return adata


@pytest.fixture(scope="module")
def data_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("paired") / "cells.h5ad"
    cells().write_h5ad(path)
    return path


def config_of(data: Path, **sections: dict[str, Any]) -> PairedConfig:
    tree: dict[str, dict[str, Any]] = {
        "input": {"data": str(data)},
        "model": {"batch_key": "batch"},
        "training": {
            "max_steps": STEPS,
            "batch_size": 32,
            "lr": 0.01,
            "log_every": 1,
            "evaluate_every": 20,
            "checkpoint_every": 10,
        },
        "placement": {"engine": "local", "threads": 1},
    }
    merged = {name: {**tree.get(name, {}), **sections.get(name, {})} for name in {*tree, *sections}}
    config = parse_config({"family": NAME, "seed": 5, **merged})
    assert isinstance(config, PairedConfig)
    return config


def prepared(data: Path, **sections: dict[str, Any]) -> tuple[RunConfig, Dataset]:
    config = config_of(data, **sections)
    dataset = build_dataset(source_from_anndata(cells(), name=str(data)), config)
    return resolve_settings(config, dataset.training), dataset


def packed(config: RunConfig, training: TrainingSet) -> list[Any]:
    return list(train_in_process(Plan("local", ((0, 1),), False, ""), config, training, Start()))


def terms_of(events: Sequence[Any], name: str) -> np.ndarray:
    """A term at every step, shape (steps, units)."""
    return np.array([event.terms[name] for event in events if isinstance(event, Logged)])


def same_parts(one: Parts, other: Parts) -> bool:
    def equal(part: str) -> bool:
        names = one[part].keys()
        return names == other[part].keys() and all(torch.equal(one[part][name], other[part][name]) for name in names)

    return all(equal(part) for part in PARTS)


class Silent:
    """Shows nothing; ends the process without warning once a step is done."""

    def __init__(self, dies_at: int | None = None):
        self.dies_at, self.lines = dies_at, []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, step: int, figures: dict[str, float]) -> None:
        if step == self.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def run(data_file, tmp_path_factory) -> tuple[RunFolder, RunResult]:
    """A run from start to end, with its results in the folder."""
    folder = RunFolder(tmp_path_factory.mktemp("run") / "out")
    config = config_of(data_file)
    result = run_training(config, build_dataset(read_source(str(data_file)), config), folder, Silent())
    write_result(folder.result, read_source(str(data_file)), result)
    return folder, result


def test_both_parts_learn_and_their_codes_come_together(data_file):
    config, data = prepared(data_file)
    alone, _ = prepared(data_file, model={"agreement": 0.0})
    coupled, apart = packed(config, data.training), packed(alone, data.training)
    losses = terms_of(coupled, "reconstruction")
    assert (losses[-5:].mean(0) < losses[:5].mean(0) - 0.5).all()
    assert terms_of(coupled, "distance")[-5:].mean() < 0.5 * terms_of(apart, "distance")[-5:].mean()
    np.testing.assert_array_equal(terms_of(coupled, "distance")[0], terms_of(apart, "distance")[0])


def test_cells_without_proteins_have_no_part_in_their_loss(data_file):
    config, data = prepared(data_file)
    mask_n = data.training.modalities[PROTEIN].present_n
    assert mask_n is not None and 0.5 < mask_n.mean() < 0.9
    values_np = data.training.modalities[PROTEIN].matrix.block().copy()
    values_np[~mask_n] = 1e6
    modality = replace(data.training.modalities[PROTEIN], matrix=InMemoryMatrix(values_np))
    other = replace(data.training, modalities={**data.training.modalities, PROTEIN: modality})
    one, two = packed(config, data.training), packed(config, other)
    np.testing.assert_array_equal(terms_of(one, "loss"), terms_of(two, "loss"))
    assert same_parts(one[-1].parts, two[-1].parts)
    # Their RNA still counts.
    values_ng = data.training.modalities[RNA].matrix.block().copy()
    values_ng[~mask_n] += 1
    rna = replace(data.training.modalities[RNA], matrix=InMemoryMatrix(values_ng))
    changed = packed(config, replace(other, modalities={RNA: rna, PROTEIN: modality}))
    assert (terms_of(changed, "loss")[0] != terms_of(one, "loss")[0]).tolist() == [True, False]


def test_the_batch_explains_what_the_code_need_not(data_file):
    longer = {"max_steps": 150, "lr": 0.02}
    told, data = prepared(data_file, model={"latent_dim": 2}, training=longer)
    untold, plain = prepared(data_file, model={"latent_dim": 2, "batch_key": None}, training=longer)
    assert _own(told).model.batches == tuple(sorted(BATCHES)) and not plain.training.covariates
    with_batch = terms_of(packed(told, data.training), "reconstruction")[-5:, 0].mean()
    without = terms_of(packed(untold, plain.training), "reconstruction")[-5:, 0].mean()
    assert with_batch < 0.9 * without


def test_a_run_leaves_metrics_checkpoints_and_cells_with_results(run):
    folder, result = run
    metrics = json.loads(folder.metrics.read_text())
    assert metrics["steps"] == STEPS and metrics["n_cells"] == N_CELLS
    assert metrics["reconstruction_rna"] > 0
    config = load_config(folder.config)
    assert isinstance(config, PairedConfig) and config.model.batches == tuple(sorted(BATCHES))
    checkpoint, wrong = latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None and not wrong and set(checkpoint.parts) == set(PARTS)
    written = anndata.read_h5ad(folder.result)
    np.testing.assert_array_equal(written.obsm["cplmix_latent_nd"], result.outputs["latent_nd"])
    assert written.obsm["cplmix_protein_ng"].shape == (N_CELLS, N_PROTEINS)
    assert f"family: {NAME}" in written.uns["cplmix_ray"]["config"]


def test_new_cells_are_predicted_also_without_proteins(run):
    folder, _ = run
    model, adata = TrainedModel.load(folder.path), cells(50, seed=7)

    def inferred(changed: anndata.AnnData) -> dict[str, np.ndarray]:
        return model.infer(model.prepare(source_from_anndata(changed)))

    outputs = inferred(adata)
    shuffled = adata[:, ::-1].copy()
    shuffled.obsm[PROTEIN] = adata.obsm[PROTEIN].iloc[:, ::-1]
    for name, values in inferred(shuffled).items():
        np.testing.assert_array_equal(values, outputs[name], err_msg=name)

    mask_n = adata.obsm[PROTEIN].notna().to_numpy().all(axis=1)
    codes = outputs["code_und"]
    np.testing.assert_allclose(outputs["latent_nd"][mask_n], codes.mean(0)[mask_n], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["latent_nd"][~mask_n], codes[0][~mask_n])
    assert (outputs["loss_un"][1, ~mask_n] == 0).all() and (outputs["loss_un"][1, mask_n] != 0).all()

    del adata.obsm[PROTEIN]
    alone = inferred(adata)
    np.testing.assert_array_equal(alone["latent_nd"], codes[0])
    np.testing.assert_array_equal(alone["protein_ng"], outputs["protein_ng"])
    with pytest.raises(InputError, match="gene3"):
        inferred(adata[:, [name != "gene3" for name in adata.var_names]].copy())
    adata.obs["batch"] = "fourth"
    with pytest.raises(InputError, match="fourth"):
        inferred(adata)


def test_blocks_of_cells_keep_their_masks_and_covariates(run, data_file, monkeypatch):
    folder, result = run
    model = TrainedModel.load(folder.path)
    monkeypatch.setattr("cplmix_ray.evaluation.trained_model.BATCH", 17)
    for name, values in model.infer(model.prepare(read_source(str(data_file)))).items():
        np.testing.assert_allclose(values, result.outputs[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_commands_score_and_annotate_new_cells(run, tmp_path, capsys):
    folder, _ = run
    path, out = tmp_path / "new.h5ad", tmp_path / "annotated.h5ad"
    cells(50, seed=7).write_h5ad(path)
    predict(["--run", str(folder.path), "--data", str(path), "--out", str(out)])
    model = TrainedModel.load(folder.path)
    expected = model.infer(model.prepare(read_source(str(path))))
    np.testing.assert_array_equal(anndata.read_h5ad(out).obsm["cplmix_latent_nd"], expected["latent_nd"])
    evaluate(["--run", str(folder.path), "--data", str(path), "--out", str(tmp_path / "scores.json")])
    rna, protein = json.loads((tmp_path / "scores.json").read_text())["autoencoders"]
    mask_n = cells(50, seed=7).obsm[PROTEIN].notna().to_numpy().all(axis=1)
    assert rna["reconstruction"] == pytest.approx(expected["loss_un"][0].mean(), rel=1e-5)
    assert protein["reconstruction"] == pytest.approx(expected["loss_un"][1, mask_n].mean(), rel=1e-5)
    assert str(out) in capsys.readouterr().out


def test_a_run_that_stopped_goes_on_bitwise_packed(data_file, tmp_path):
    config, data = prepared(data_file)
    first = [event for event in packed(config, data.training) if isinstance(event, Snapshot)]
    middle = next(event for event in first if event.step == 20)
    plan = Plan("local", ((0, 1),), False, "")
    later = list(train_in_process(plan, config, data.training, Start(20, middle.parts)))
    assert same_parts(later[-1].parts, first[-1].parts)


def test_settings_of_the_same_name_are_told_apart_by_their_section():
    line = ["--family", NAME, "--rna.width", "16", "--protein.width=4", "--latent-dim", "2", "--model.noise", "0.5"]
    settings = parse_train(line).settings
    assert isinstance(settings, PairedConfig)
    assert (settings.rna.width, settings.protein.width) == (16, 4)
    assert (settings.model.latent_dim, settings.model.noise) == (2, 0.5)
    with pytest.raises(InputError, match=r"--rna\.width or --protein\.width"):
        parse_train(["--family", NAME, "--width", "16"])


def test_two_sections_of_one_class_are_refused():
    class Twice(PairedConfig):
        family: Literal["twice"] = "twice"
        protein: RnaSettings = RnaSettings()

    with pytest.raises(ValueError, match="Twice"):
        register_config(Twice)


def test_data_without_the_modality_are_refused(data_file):
    adata = cells(10)
    del adata.obsm[PROTEIN]
    with pytest.raises(InputError, match=PROTEIN):
        build_dataset(source_from_anndata(adata), config_of(data_file))


def train_until_killed(data: str, out: str) -> None:
    """Train, and kill this process at a step between two checkpoints."""
    config = config_of(Path(data))
    run_training(config, build_dataset(read_source(data), config), RunFolder(out), Silent(dies_at=27))


def in_another_process(*words: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


@pytest.mark.slow
def test_a_killed_run_is_resumed_bitwise(run, data_file, tmp_path):
    whole, _ = run
    folder = RunFolder(tmp_path / "killed")
    line = f"import {Path(__file__).stem} as t; t.train_until_killed({str(data_file)!r}, {str(folder.path)!r})"
    killed = in_another_process("-c", line)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    config = load_config(folder.config)
    data = build_dataset(read_source(str(data_file)), config)
    checkpoint = checkpoint_to_resume(folder, config, data, print)
    assert checkpoint is not None and checkpoint.step == 20
    run_training(config, data, folder, Silent(), checkpoint)
    resumed, expected = latest_checkpoint(folder.checkpoints)[0], latest_checkpoint(whole.checkpoints)[0]
    assert resumed is not None and expected is not None and resumed.step == expected.step == STEPS
    assert same_parts(resumed.parts, expected.parts)
    with pytest.raises(InputError, match=r"rna\.width"):
        checkpoint_to_resume(folder, config.with_settings(rna={"width": 9}), data, print)


def scalars_in(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of TensorBoard as (step, value)."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_the_train_command_trains_the_family_of_an_extension_packed_and_on_two_actors(data_file, tmp_path):
    options = ["--family", NAME, "--data", str(data_file), "--model.batch-key", "batch", "--max-steps", "30"]
    options += ["--lr", "0.01", "--batch-size", "32", "--log-every", "1", "--evaluate-every", "10", "--threads", "1"]
    widths = ["--rna.width", "16", "--protein.width", "4"]
    metrics, scalars, parts = [], [], []
    for engine in ("local", "ray"):
        folder = RunFolder(tmp_path / engine)
        words = ["-m", "cplmix_ray.train", *options, *widths, "--engine", engine, "--out", str(folder.path)]
        done = in_another_process(*words, CPLMIX_RAY_EXTENSIONS=Path(__file__).stem)
        assert done.returncode == 0, done.stderr
        assert "cplmix_latent_nd" in anndata.read_h5ad(folder.result).obsm
        metrics.append(json.loads(folder.metrics.read_text()))
        scalars.append(scalars_in(folder.tensorboard))
        checkpoint, _ = latest_checkpoint(folder.checkpoints)
        assert checkpoint is not None and checkpoint.step == 30
        parts.append(checkpoint.parts)
    assert [each["n_workers"] for each in metrics] == [1, 2]
    assert [each["coupling_bytes"] for each in metrics] == [0, 4 * (32 * 3 + 1)]
    losses = scalars[0]["rna/loss"]
    assert [step for step, _ in losses] == list(range(1, 31)) and losses[-1][1] < losses[0][1]
    assert len(scalars[0]["protein/val_reconstruction"]) == 3
    assert scalars[0] == scalars[1]
    assert same_parts(*parts)

    words = ["-m", "cplmix_ray.train", *options, "--width", "16", "--out", str(tmp_path / "none")]
    ambiguous = in_another_process(*words, CPLMIX_RAY_EXTENSIONS=Path(__file__).stem)
    assert ambiguous.returncode == 2 and "--rna.width" in ambiguous.stderr
    unknown = in_another_process(*words, CPLMIX_RAY_EXTENSIONS="")
    assert unknown.returncode == 2 and NAME in unknown.stderr and not (tmp_path / "none").exists()
