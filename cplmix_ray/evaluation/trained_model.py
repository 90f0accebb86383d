"""A trained model: all arms packed, ready for cells old or new."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.checkpoints.checkpoint import Checkpoint, latest_checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import Config
from cplmix_ray.data.device_transfer import in_order
from cplmix_ray.data.matrix.lazy import LazyRows, limits
from cplmix_ray.data.matrix.on_disk import choose_genes
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import Preparation, check_finite, prepare, require_counts
from cplmix_ray.data.source import Source, Values
from cplmix_ray.evaluation.inference import BATCH, answers
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup, build_network, resolve_likelihood
from cplmix_ray.training.resume import settings_of
from cplmix_ray.utils.errors import InputError, NonFiniteError
from cplmix_ray.utils.finite_checks import require_finite_posteriors


@dataclass(frozen=True)
class Inferred:
    """What a model says of n cells.

    Attributes:
        probs_nk: consensus posterior, the Aitchison mean of the arms' posteriors.
        log_q_ank: each arm's log-posterior.
        state_nd: mean state of arm 0 given the consensus posterior; the arms' coordinates are their own, so they are
            not averaged.
        reconstruction: each arm's reconstruction loss, nats a cell.
    """

    probs_nk: np.ndarray
    log_q_ank: np.ndarray
    state_nd: np.ndarray
    reconstruction: list[float]

    @property
    def category_n(self) -> np.ndarray:
        return self.probs_nk.argmax(axis=1)

    @property
    def confidence_n(self) -> np.ndarray:
        return self.probs_nk.max(axis=1)


def newest_checkpoint(path: str | Path) -> Checkpoint:
    """The newest checkpoint of a run folder that is whole.

    Raises:
        InputError: there is none, or none is whole.
    """
    checkpoint, wrong = latest_checkpoint(RunFolder(path).checkpoints)
    if checkpoint is None:
        seen = f"; {'; '.join(wrong)}" if wrong else ""
        raise InputError(f"{path} holds no checkpoint of a run{seen}; give the folder that train wrote with --out.")
    return checkpoint


@dataclass(frozen=True)
class TrainedModel:
    """The arms of a finished (or interrupted) run."""

    config: Config
    preparation: Preparation
    group: ArmGroup
    step: int

    @classmethod
    def from_arms(
        cls, config: Config, preparation: Preparation, arms: dict[int, dict[str, Tensor]], step: int
    ) -> "TrainedModel":
        device = torch.device("cuda" if torch.cuda.is_available() and config.placement.device != "cpu" else "cpu")
        group = ArmGroup(config, preparation, range(config.model.n_arms), device)
        group.load_weights(arms)
        return cls(config, preparation, group, step)

    @classmethod
    def load(cls, path: str | Path) -> "TrainedModel":
        """Read the newest checkpoint of a run folder.

        Raises:
            InputError: there is none, or none is whole.
        """
        return cls.of(newest_checkpoint(path))

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "TrainedModel":
        """The model in a checkpoint.

        Raises:
            InputError: the checkpoint does not hold the arms of its own settings.
        """
        config, preparation = settings_of(checkpoint), Preparation.from_dict(checkpoint.manifest["preparation"])
        try:
            _require_fit(config, preparation, checkpoint.arms)
            return cls.from_arms(config, preparation, checkpoint.arms, checkpoint.step)
        except (ValueError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{checkpoint.path} does not hold the arms of its own settings ({' '.join(str(error).split())}); give "
                f"the folder of another run."
            ) from None

    def values_of(self, source: Source) -> Values:
        """Cells prepared as the training cells were.

        Raises:
            InputError: genes are missing, or the values do not fit.
        """
        if (source.image_shape is None) != (self.preparation.image_shape is None):
            kind = "images" if self.preparation.image_shape else "cells"
            raise InputError(f"The model was trained on {kind}, and {source.name} holds something else.")
        if source.image_shape != self.preparation.image_shape:
            raise InputError(
                f"The model was trained on images of {self.preparation.image_shape} pixels (height, width), and "
                f"{source.name} holds images of {source.image_shape}."
            )
        check_finite(source.values_ng, source)
        if self.preparation.kind == "counts":
            require_counts(source.values_ng, source, resolve_likelihood(self.config, self.preparation))
        if isinstance(source.values_ng, LazyRows):
            return prepare(source.values_ng, self.preparation)
        at = columns_of(source.adata.var_names, self.preparation.var_names, source.name)
        if self.preparation.target_sum is None:
            return prepare(choose_genes(source.values_ng, at), self.preparation)
        if limits(source.values_ng)[0] < 0:
            raise InputError(
                f"{source.name} holds negative values, but the model was trained on values that it normalises itself; "
                f"give values of the same kind, with --layer where X holds others."
            )
        # The library size is that of all genes, as it was in training, so genes are chosen last.
        return choose_genes(prepare(source.values_ng, self.preparation), at)

    def infer(self, values_ng: Values, reconstruct: bool = True) -> Inferred:
        """Posteriors of prepared cells.

        Args:
            reconstruct: whether the reconstruction loss is wanted, which takes half of the time; it is NaN if not.

        Raises:
            NonFiniteError: an arm's posterior, loss or state of some cell is not finite.
        """
        group = self.group
        with contextlib.closing(in_order(values_ng, BATCH, group.device)) as blocks:
            said = answers(group.network, blocks, values_ng.shape[0], reconstruct)
        arms, last = range(self.config.model.n_arms), max(0, self.step - 1)
        losses = said.reconstruction if reconstruct else [0.0] * len(arms)
        require_finite_posteriors(said.log_q_ank, losses, arms, last, "all cells")
        if not np.isfinite(said.state_nd).all():
            raise NonFiniteError("state (all cells)", 0, last)
        return Inferred(said.probs_nk, said.log_q_ank, said.state_nd, said.reconstruction)


def _require_fit(config: Config, preparation: Preparation, arms: dict[int, dict[str, Tensor]]) -> None:
    """Compare weights with the networks that the settings ask for, before any memory is taken for those.

    Raises:
        ValueError: they are not theirs.
    """
    with torch.device("meta"):
        network = build_network(1, config, preparation)
    wanted = {name: tensor.shape[1:] for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    for arm in range(config.model.n_arms):
        for name, shape in wanted.items():
            there = arms[arm].get(f"network/{name}") if arm in arms else None
            if there is None or there.shape != shape:
                has = "none" if there is None else f"{tuple(there.shape)}"
                raise ValueError(f"arm {arm} should have {name} of shape {tuple(shape)}, and has {has}")
