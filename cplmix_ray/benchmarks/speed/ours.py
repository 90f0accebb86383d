"""The package's own step, on made-up cells."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
import torch

from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.collectives.arm_sum import ArmSum
from cplmix_ray.config.arms import LikelihoodName
from cplmix_ray.data.device_transfer import row_reader
from cplmix_ray.data.preprocessing.preparation import Kind, Preparation
from cplmix_ray.data.source import Values
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.models.cplmixvae.arm_group import ArmGroup
from cplmix_ray.models.cplmixvae.training_step import Exercise, draw_copies, train_step
from cplmix_ray.nn.arm_rows import Cells

POOL = 4
"""Minibatches that the made-up cells are enough for."""


def made_up_values(shape: Shape, seed: int = 0) -> Values:
    """Log-expression of a few minibatches: CSR where it is not dense."""
    n_cells, rng = POOL * shape.cells, np.random.default_rng(seed)
    if shape.density >= 1.0:
        return rng.exponential(1.0, (n_cells, shape.genes)).astype(np.float32)
    values = sp.random(n_cells, shape.genes, shape.density, format="csr", dtype=np.float32, random_state=rng)
    values.data += 0.5
    return values


def training_set(shape: Shape, values_ng: Values, kind: Kind = "log") -> TrainingSet:
    """All the cells train."""
    names = tuple(f"gene{i}" for i in range(shape.genes))
    every = np.arange(values_ng.shape[0])
    return TrainingSet(values_ng, every, every[:0], None, Preparation(kind, names))


class OurStep:
    """Arms, optimiser and data; ``__call__`` takes one step on the given cells and returns the loss.

    Args:
        data: see ``training_set``.
        arms: those of the shape's arms that are held here; None: all.
        arm_sum: the sum over arms; None: over the arms held here.
        likelihood: of the values.
    """

    def __init__(
        self,
        shape: Shape,
        data: TrainingSet,
        device: torch.device,
        arms: Sequence[int] | None = None,
        arm_sum: ArmSum | None = None,
        likelihood: LikelihoodName = "gaussian",
    ):
        config = shape.config()
        config = config.model_copy(update={"model": config.model.model_copy(update={"likelihood": likelihood})})
        self.group = ArmGroup(config, data.preparation, range(shape.n_arms) if arms is None else arms, device)
        self.exercise = Exercise(config, row_reader(data.values_ng, device), [], 1_000_000, arm_sum or ArmSum())
        self.step = 0

    def __call__(self, idx_n: torch.Tensor) -> float:
        return self.train(draw_copies(self.group, self.exercise, idx_n.numpy()))

    def train(self, cells: Cells) -> float:
        """The step alone, on cells that were read before."""
        terms, _ = train_step(self.group, self.exercise, cells, self.step)
        self.step += 1
        return float(terms["loss"].sum())
