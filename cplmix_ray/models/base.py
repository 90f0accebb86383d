"""What a model family is, and what a model is to the code that trains, saves, distributes and evaluates it.

A *family* (coupled mixture VAEs, a VAE-GAN) brings its settings, its losses and its outputs. A *model* is what one
worker holds of it. A model consists of *parts*, each saved as a file of a checkpoint: the arms of a coupled mixture
VAE, the two networks of a GAN. Parts that have to be on the same worker form a *unit*; units may be distributed over
workers. Every arm is a unit; both networks of a GAN are one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.collectives.process_groups import ProcessGroups
from cplmix_ray.collectives.shards import Shards
from cplmix_ray.config.run import RunConfig
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN, PreparedCells, TrainingSet
from cplmix_ray.nn.rows import Rows
from cplmix_ray.utils.errors import InputError

if TYPE_CHECKING:  # workers need no reader of files
    import anndata
    import pandas as pd
    from matplotlib.figure import Figure

    from cplmix_ray.data.dataset import Dataset
    from cplmix_ray.data.source import Source

Parts = dict[str, dict[str, Tensor]]
"""Part -> name -> tensor: what a checkpoint holds."""
Scores = dict[str, float]


class CellReader(Protocol):
    """Reads cells of the training set while their minibatch is in use."""

    def rows(self, idx_n: Tensor, modality: str = MAIN) -> Rows:
        """Rows ``idx_n`` (int64, on the CPU) of a modality on the model's device."""

    @property
    def available(self) -> np.ndarray:
        """Training cells that can be read now without waiting for a disk, ascending."""

    @property
    def pick_neighbors(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
        """Given rows and which neighbor of each is wanted, the rows of those; None where all cells are in memory."""


@dataclass(frozen=True)
class Batch:
    """The cells of one minibatch.

    Attributes:
        idx_n: rows of the whole minibatch, the same on all workers.
        cells: reads their values.
        shards: which shards of the minibatch this worker holds.
    """

    idx_n: np.ndarray
    cells: CellReader
    shards: Shards

    @property
    def shard_rows(self) -> list[np.ndarray]:
        """Rows of each shard of the minibatch that is held here."""
        shards = np.split(self.idx_n, self.shards.n)
        return [shards[shard] for shard in self.shards.held]

    @property
    def rows(self) -> np.ndarray:
        """Rows of all shards that are held here."""
        return np.concatenate(self.shard_rows)


@dataclass(frozen=True)
class CellBlock:
    """Some cells of which outputs are inferred.

    Attributes:
        rows: modality -> values.
        present: modality -> (n,) which of the cells were measured, for modalities that some cells lack.
        covariates: column of obs -> (n,) its encoded values.
    """

    rows: Mapping[str, Rows]
    present: Mapping[str, np.ndarray] = field(default_factory=dict)
    covariates: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: PreparedCells, idx: np.ndarray | slice, rows: Mapping[str, Rows]) -> "CellBlock":
        """The cells ``idx``, whose values were read already."""
        masks = {name: modality.present_n for name, modality in cells.modalities.items()}
        present = {name: mask_n[idx] for name, mask_n in masks.items() if mask_n is not None}
        return cls(rows, present, {name: values_n[idx] for name, values_n in cells.covariates.items()})

    def __len__(self) -> int:
        return next(iter(self.rows.values())).shape[0]


@dataclass(frozen=True)
class Report:
    """Numbers of one training step.

    Attributes:
        terms: name -> value of each unit held here, shape (U_local,), averaged over the cells held here. ``loss`` is
            the value that is minimised.
        shared: name -> scalar that all units have in common, averaged likewise.
        settings: settings that follow a schedule, such as the learning rate.
        waited: seconds that this worker has waited for the sums over units so far.
        sent: bytes that it sent for the sum over units of this step.
    """

    terms: dict[str, Tensor]
    shared: dict[str, Tensor] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)
    waited: float = 0.0
    sent: int = 0


@dataclass(frozen=True)
class Output:
    """What a model can infer of cells.

    Attributes:
        meaning: name in messages.
        cells_axis: axis that counts cells; None for a mean over cells, all of which count alike. Where some cells lack
            a modality, its losses are better given cell by cell, with zeros for those.
        predicted: whether it is inferred of new cells that are annotated; others are for evaluation alone.
        by_unit: whether the first axis counts units. Such outputs can be inferred by a worker that holds some units;
            the others need all.
    """

    meaning: str
    cells_axis: int | None
    by_unit: bool = False
    predicted: bool = True


@dataclass(frozen=True)
class TrainingContext:
    """What a model needs for training besides its networks.

    Attributes:
        data: cells and tables, never labels.
        cells: reads their values.
        groups: the workers to communicate with.
        n_steps: length of the run, for schedules.
        step: steps already done.
    """

    data: TrainingSet
    cells: CellReader
    groups: ProcessGroups
    n_steps: int
    step: int = 0


class Model(ABC):
    """What one worker holds of a model: some units with their networks and, while training, their optimisers."""

    units: tuple[int, ...]
    device: torch.device

    @abstractmethod
    def start_training(self, context: TrainingContext, saved: Parts | None) -> None:
        """Prepare for training: draw weights from the seed, or continue with those of ``saved``.

        Args:
            saved: parts as :meth:`parts` gave them, of any layout; None at the start of a run.
        """

    @abstractmethod
    def training_step(self, batch: Batch, step: int) -> Report:
        """Forward, exchange with other workers, backward, update.

        Args:
            step: counted from 0.

        Raises:
            NonFiniteError: a term or a gradient is not finite; the weights are then unchanged.
        """

    def after_step(self, done: int, observed: bool) -> None:
        """What has to be done between steps.

        Args:
            done: steps done so far.
            observed: whether the model is evaluated or saved now.
        """
        return

    @abstractmethod
    def parts(self) -> Parts:
        """Copies of all tensors on the CPU from which training can continue, independent of the layout."""

    @abstractmethod
    def load_weights(self, saved: Parts) -> None:
        """Take over the weights alone, for inference.

        Raises:
            ValueError: they are not those of this model.
        """

    @abstractmethod
    def infer(self, cells: CellBlock, wanted: Collection[str]) -> dict[str, Tensor]:
        """Outputs of some cells by name, without sampling; all finite.

        Args:
            wanted: names of the family's outputs. Those that are not ``by_unit`` need all units.
        """

    def decode(self, **latent: Tensor) -> Tensor:
        """Expected cells of each unit for given latent variables, in the units of the preparation."""
        raise NotImplementedError(f"{type(self).__name__} decodes nothing")


@dataclass(frozen=True)
class Outcome:
    """Outputs and scores of a trained model.

    Attributes:
        outputs: output -> values for all cells.
        scores: flat, for metrics.json.
        reference: arrays with which other cells are compared, saved with the model; see :meth:`Family.compare`.
    """

    outputs: dict[str, np.ndarray]
    scores: dict[str, Any]
    reference: dict[str, np.ndarray] = field(default_factory=dict)


class Family(ABC):
    """A model family. A subclass is registered with :func:`cplmix_ray.models.registry.register_family`.

    Attributes:
        name: as in the setting ``family``.
        config: class of its settings, whose field ``family`` has that name as its default.
        unit: what a unit is called in messages ("arm").
        outputs: what its models infer of cells, by name.
        validated: names of the outputs that are computed of the validation cells during training; all ``by_unit``.
        sampler_key: seeds the order of cells besides the run's seed.
    """

    name: ClassVar[str]
    config: ClassVar[type[RunConfig]]
    unit: ClassVar[str] = "unit"
    outputs: ClassVar[dict[str, Output]] = {}
    validated: ClassVar[tuple[str, ...]] = ()
    sampler_key: ClassVar[tuple[int, ...]] = (1000,)

    @abstractmethod
    def units(self, config: RunConfig) -> tuple[tuple[str, ...], ...]:
        """Names of the parts of each unit, in order; names of files without their suffix."""

    @abstractmethod
    def build_dataset(self, source: "Source", config: RunConfig, root: str | Path = "") -> "Dataset":
        """Check and prepare what was read for training.

        Args:
            root: folder from which relative paths in the settings count, where it is not the current one.

        Raises:
            InputError: the data and the settings do not fit.
        """

    @abstractmethod
    def prepare_again(
        self, source: "Source", config: RunConfig, preparations: Mapping[str, Preparation]
    ) -> PreparedCells:
        """New cells prepared as those of training were.

        Raises:
            InputError: features or covariates are missing, or the values do not fit.
        """

    @abstractmethod
    def build(
        self, config: RunConfig, preparations: Mapping[str, Preparation], units: Sequence[int], device: torch.device
    ) -> Model:
        """A model with some of the units, whose weights are still undefined.

        Args:
            preparations: modality -> how its values were prepared.
        """

    def check_source(self, source: "Source", config: RunConfig) -> None:
        """Compare the settings with what was read, as far as that takes no time.

        Raises:
            InputError: they do not fit.
        """
        return

    def dataset_keys(self, config: RunConfig) -> tuple[object, object]:
        """The settings on which the prepared matrices depend, and those on which the whole data set depends."""
        return config.input, (config.input, config.seed)

    def search_metric(self, labelled: bool) -> str | None:
        """The metric that decides a search if none is named; None where one must be."""
        return None

    def resolve(self, config: RunConfig, data: TrainingSet) -> RunConfig:
        """The settings with every 'auto' of the family replaced by what it means for the data.

        What a model has to remember of its data besides the preparations, such as the levels of a covariate, is a
        setting that is filled in here: it is then saved with the model.
        """
        return config

    def validation_scores(self, outputs: Mapping[str, np.ndarray], data: "Dataset") -> tuple[Scores, list[Scores]]:
        """Scores of all units together and of each unit on the validation cells."""
        return {}, []

    @abstractmethod
    def evaluate(
        self,
        infer: Callable[[], dict[str, np.ndarray]],
        model: Model,
        data: "Dataset",
        config: RunConfig,
        say: Callable[[str], None],
    ) -> Outcome:
        """Outputs and scores of a model after training.

        Args:
            infer: infers all outputs of all cells of the data set.
            model: holds all units.
            say: shows a message to the user.
        """

    def compare(
        self,
        model: Model,
        cells: PreparedCells,
        outputs: Mapping[str, np.ndarray],
        reference: Mapping[str, np.ndarray],
        new: bool,
    ) -> dict[str, np.ndarray]:
        """Further outputs of cells, from a comparison with what the family kept of the training cells.

        Args:
            outputs: those of the same cells.
            reference: as :meth:`evaluate` returned it; not empty.
            new: the model was not trained on these cells.

        Raises:
            ValueError: the reference is not that of this model.
        """
        return {}

    def without_categories(self, config: RunConfig, parts: Parts, removed: Collection[int]) -> tuple[RunConfig, Parts]:
        """Settings and parts of a trained model without some of its categories, for training to continue.

        Raises:
            InputError: the model has no categories, or they cannot be removed.
        """
        raise InputError(
            f"Models of the family {self.name} have no categories that could be removed; give a run of the family "
            f"cplmixvae."
        )

    def with_categories(self, data: TrainingSet, category_n: np.ndarray) -> TrainingSet:
        """The data set with other initial categories of the cells, if it has any.

        Args:
            category_n: of all cells.
        """
        return data

    def keep_inputs(self, folder: Path, data: TrainingSet) -> None:
        """Copy into the folder of a run what it needs to be resumed if the files it was given are gone."""
        return

    def with_kept_inputs(self, folder: Path, config: RunConfig) -> RunConfig:
        """The settings with the run's own copies in place of files that are gone."""
        return config

    def export(
        self, folder: Path, model: Model, data: "Dataset", config: RunConfig, metrics: Mapping[str, Any]
    ) -> None:
        """Write what else belongs into the folder of a finished run.

        Args:
            metrics: content of metrics.json.
        """
        return

    def annotate(
        self, adata: "anndata.AnnData", outputs: Mapping[str, np.ndarray], config: RunConfig, key: str
    ) -> None:
        """Add outputs to an AnnData object in place."""
        for name, output in self.outputs.items():
            if name in outputs and output.cells_axis == 0:
                adata.obsm[f"{key}_{name}"] = outputs[name]

    def gene_tables(self, model: Model, preparations: Mapping[str, Preparation]) -> "dict[str, pd.DataFrame]":
        """Tables by name with a row for each gene that the model was trained on, such as loadings of the state."""
        return {}

    def cell_tables(
        self, outputs: Mapping[str, np.ndarray], labels_n: np.ndarray | None, batch_n: "pd.Categorical | None"
    ) -> "dict[str, pd.DataFrame]":
        """Tables that compare outputs with what is known of the cells, such as a reliability table, by name.

        Args:
            labels_n: known types of the cells, "" where unknown; None without labels.
            batch_n: batches of the cells; None without a batch key.
        """
        return {}

    def scores(
        self, outputs: Mapping[str, np.ndarray], source: "Source", config: RunConfig
    ) -> tuple[Scores, list[Scores]]:
        """Scores of all units together and of each unit for cells that were read."""
        return {}, [{} for _ in self.units(config)]

    def unlabelled_scores(self, outputs: Mapping[str, np.ndarray]) -> Scores:
        """Scores of inferred cells that need no labels."""
        return {}

    def tags(self, config: RunConfig) -> list[str]:
        """Prefix of each unit's scalars in TensorBoard."""
        return [f"{self.unit}{unit}" for unit in range(len(self.units(config)))]

    def facts(self, config: RunConfig) -> dict[str, Any]:
        """Facts of the settings that metrics.json repeats."""
        return {}

    def summary(self, config: RunConfig) -> str:
        """The settings in a few words, for the first lines of a run."""
        return ""

    def figures(self, tables: "Mapping[str, pd.DataFrame]") -> "dict[str, Figure]":
        """Drawings of the tables of :meth:`cell_tables`, by name."""
        return {}

    def cell_counts(self, outputs: Mapping[str, np.ndarray]) -> list[str]:
        """Sentences that say how many cells have an unusual output."""
        return []

    def cell_remarks(self, outputs: Mapping[str, np.ndarray], obs: "pd.DataFrame", config: RunConfig) -> list[str]:
        """Sentences for the user on how the outputs are related to the annotations of the cells."""
        return []

    def remarks(self, metrics: Mapping[str, Any], outputs: Mapping[str, np.ndarray], config: RunConfig) -> list[str]:
        """Sentences for the user on what a run ended with."""
        return []

    def warn(self, terms: Mapping[str, Sequence[float]], step: int, config: RunConfig) -> str | None:
        """A sentence on what is unusual in the terms of a step, said once a run; None where nothing is."""
        return None

    def checkpoint_facts(self, data: TrainingSet) -> dict[str, Any]:
        """What a checkpoint's manifest says of the data besides its preparation; the same when the run is resumed."""
        return {}


def part_names(family: Family, config: RunConfig) -> list[str]:
    """All parts of a model."""
    return [part for unit in family.units(config) for part in unit]
