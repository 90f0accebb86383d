"""Training step of the package on random cells."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch

from cplmix_ray.benchmarks.speed.case import Shape
from cplmix_ray.collectives.unit_sum import UnitSum
from cplmix_ray.config.names import LikelihoodName
from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.matrix.block import Block
from cplmix_ray.data.matrix.in_memory import InMemoryMatrix
from cplmix_ray.data.preprocessing.preparation import Kind, Preparation
from cplmix_ray.data.training_set import MAIN, Modality, TrainingSet
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.dataset import ArmTables
from cplmix_ray.models.cplmixvae.training_step import StepContext, augmented_batch, train_step
from cplmix_ray.nn.dense_rows import ArmRows

POOL = 4
"""Number of random cells in minibatches."""


def random_values(shape: Shape, seed: int = 0) -> Block:
    """Random log-expression of a few minibatches; CSR if the density is below 1."""
    n_cells, rng = POOL * shape.cells, np.random.default_rng(seed)
    if shape.density >= 1.0:
        return rng.exponential(1.0, (n_cells, shape.genes)).astype(np.float32)
    values = sp.random(n_cells, shape.genes, shape.density, format="csr", dtype=np.float32, random_state=rng)
    values.data += 0.5
    return values


def training_set(shape: Shape, values_ng: Block, kind: Kind = "log") -> TrainingSet:
    """A training set of all the cells."""
    names = tuple(f"gene{i}" for i in range(shape.genes))
    every = np.arange(values_ng.shape[0])
    return TrainingSet(
        {MAIN: Modality(InMemoryMatrix(values_ng), Preparation(kind, names))}, every, every[:0], ArmTables()
    )


class PackageStep:
    """Arms, optimiser and data; a call takes one step on the given cells and returns the loss.

    Args:
        data: see ``training_set``.
        arms: the arms in this process; None for all.
        unit_sum: the sum over arms; None sums over the arms in this process.
        likelihood: likelihood of the values.
    """

    def __init__(
        self,
        shape: Shape,
        data: TrainingSet,
        device: torch.device,
        arms: Sequence[int] | None = None,
        unit_sum: UnitSum | None = None,
        likelihood: LikelihoodName = "gaussian",
    ):
        config = shape.config()
        config = config.model_copy(update={"model": config.model.model_copy(update={"likelihood": likelihood})})
        self.group = ArmGroup(config, data.preparation, range(shape.n_arms) if arms is None else arms, device)
        self.step_context = StepContext(config, row_reader(data.matrix, device), [], 1_000_000, unit_sum or UnitSum())
        self.step = 0

    def __call__(self, idx_n: torch.Tensor) -> float:
        return self.train(augmented_batch(self.group, self.step_context, idx_n.numpy()).rows)

    def train(self, cells: ArmRows) -> float:
        """The step alone, on cells that are in memory."""
        terms, _ = train_step(self.group, self.step_context, cells, self.step)
        self.step += 1
        return float(terms["loss"].sum())
