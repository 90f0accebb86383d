"""A trained model for inference, with all units in one process."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from cplmix_ray.checkpoints.checkpoint import Checkpoint, latest_checkpoint
from cplmix_ray.checkpoints.reference_file import REFERENCE, read_reference
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.checkpoints.seeds_folder import SeedsFolder
from cplmix_ray.config import RunConfig, parse_config
from cplmix_ray.data.covariates import encode_covariates
from cplmix_ray.data.device_transfer import in_order
from cplmix_ray.data.preprocessing.gene_names import version_note
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.source import Source
from cplmix_ray.data.training_set import PreparedCells
from cplmix_ray.evaluation.inference import BATCH, infer_blocks
from cplmix_ray.models.base import CellBlock, Family, Model, Parts
from cplmix_ray.models.finite_checks import require_finite_outputs
from cplmix_ray.models.registry import family_of
from cplmix_ray.nn.rows import Rows
from cplmix_ray.utils.errors import InputError


def newest_checkpoint(path: str | Path) -> Checkpoint:
    """The newest intact checkpoint of a run folder; of runs with several seeds, that of the medoid.

    Raises:
        InputError: there is none.
    """
    seeds = SeedsFolder(path)
    folder = RunFolder(path) if seeds.n_seeds() is None else seeds.medoid()
    checkpoint, damaged = latest_checkpoint(folder.checkpoints)
    if checkpoint is None:
        reasons = f"; {'; '.join(damaged)}" if damaged else ""
        raise InputError(
            f"{path} contains no intact checkpoint of a run{reasons}; give the folder of a run or of a saved model."
        )
    return checkpoint


def settings_of(checkpoint: Checkpoint) -> RunConfig:
    """The settings of the run that wrote a checkpoint.

    Raises:
        InputError: it contains none, or settings that this version does not know.
    """
    if "config" not in checkpoint.manifest:
        raise InputError(
            f"{checkpoint.path} is not a checkpoint of a run: its manifest contains no settings; give the folder of a "
            f"run or of a saved model."
        )
    return parse_config(checkpoint.manifest["config"], str(checkpoint.path))


@dataclass(frozen=True)
class TrainedModel:
    """A model of a finished (or interrupted) run.

    Attributes:
        preparations: modality -> how its values were prepared.
        model: all units.
        step: number of steps that it was trained for.
        reference: what the family kept of the training cells to compare others with; empty if nothing.
    """

    config: RunConfig
    preparations: Mapping[str, Preparation]
    model: Model
    step: int
    reference: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        return family_of(self.config)

    @classmethod
    def from_parts(
        cls, config: RunConfig, preparations: Mapping[str, Preparation], parts: Parts, step: int
    ) -> "TrainedModel":
        """A model with the weights of a snapshot.

        Raises:
            ValueError, KeyError: the weights are not those of the settings' model.
        """
        device = torch.device("cuda" if torch.cuda.is_available() and config.placement.device != "cpu" else "cpu")
        family = family_of(config)
        model = family.build(config, preparations, range(len(family.units(config))), device)
        model.load_weights(parts)
        return cls(config, preparations, model, step)

    @classmethod
    def load(cls, path: str | Path) -> "TrainedModel":
        """Read the newest checkpoint of a run folder.

        Raises:
            InputError: there is none that is intact.
        """
        return cls.from_checkpoint(newest_checkpoint(path))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> "TrainedModel":
        """The model in a checkpoint.

        Raises:
            InputError: the checkpoint does not contain the parts of its own settings.
        """
        config = settings_of(checkpoint)
        found = checkpoint.manifest["preparations"].items()
        preparations = {name: Preparation.from_dict(preparation) for name, preparation in found}
        try:
            model = cls.from_parts(config, preparations, checkpoint.parts, checkpoint.step)
        except (ValueError, KeyError, RuntimeError) as error:
            unit = family_of(config).unit
            raise InputError(
                f"{checkpoint.path} does not contain the {unit}s of its own settings "
                f"({' '.join(str(error).split())}); give the folder of another run."
            ) from None
        return replace(model, reference=read_reference(checkpoint.path))

    def prepare(self, source: Source) -> PreparedCells:
        """Cells prepared as the training cells were.

        Raises:
            InputError: features are missing, or the values do not fit.
        """
        return self.family.prepare_again(source, self.config, self.preparations)

    def notes(self, source: Source) -> list[str]:
        """What the user should know of the cells that :meth:`prepare` prepares."""
        wanted = [preparation.var_names for preparation in self.preparations.values()]
        notes = [version_note(source.var_names, names, source.name) for names in wanted]
        for preparation in self.preparations.values():
            notes += encode_covariates(source.adata.obs, preparation.covariates, source.name)[1]
        return [note for note in notes if note is not None]

    def infer(self, cells: PreparedCells, wanted: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Outputs for prepared cells.

        Args:
            wanted: names of outputs; None for all. A reconstruction loss takes about half of the time.

        Raises:
            NonFiniteError: an output for some cell is not finite.
        """
        names = tuple(self.family.outputs) if wanted is None else tuple(wanted)
        with contextlib.ExitStack() as stack:
            streams = {
                name: stack.enter_context(contextlib.closing(in_order(modality.matrix, BATCH, self.model.device)))
                for name, modality in cells.modalities.items()
            }
            outputs = infer_blocks(self.model, self.family, _zipped_blocks(cells, streams), cells.n_cells, names)
        require_finite_outputs(outputs, self.family, self.model.units, max(0, self.step - 1), "all cells")
        return outputs

    def compared(self, cells: PreparedCells, outputs: dict[str, np.ndarray], new: bool = True) -> dict[str, np.ndarray]:
        """The outputs of cells, and those that follow from a comparison with training cells, if the model has any.

        Args:
            new: the model was not trained on these cells.

        Raises:
            InputError: the file of the reference cells is not that of this model.
        """
        if not self.reference:
            return outputs
        try:
            return outputs | self.family.compare(self.model, cells, outputs, self.reference, new)
        except ValueError as error:
            raise InputError(f"{REFERENCE} of the model does not fit it: {error}; train the model again.") from None


def _zipped_blocks(cells: PreparedCells, streams: Mapping[str, Iterator[Rows]]) -> Iterator[CellBlock]:
    """Blocks of consecutive cells from the rows of each modality."""
    for number, rows in enumerate(zip(*streams.values(), strict=True)):
        yield CellBlock.of(cells, slice(number * BATCH, (number + 1) * BATCH), dict(zip(streams, rows, strict=True)))
