"""The interface of an augmentation, the registry that settings choose from, and chains of augmentations."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.nn.dense_rows import DenseRows
from cplmix_ray.nn.rows import Rows
from cplmix_ray.utils import registry

PickNeighbors: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From rows and the number of the neighbour wanted for each to the neighbours' rows."""


class Augmentation:
    """Random change of an arm's input that preserves the cell's type. Subclasses override one of the two methods.

    Attributes:
        elementwise: ``transform`` changes every value independently of the others and leaves zeros as they are; it may
            then be given the nonzero values alone, in any shape, so that sparse rows stay sparse.
    """

    elementwise: ClassVar[bool] = False

    def choose_rows(self, idx_n: Tensor, generator: torch.Generator) -> Tensor:
        """Rows of the data to read in place of rows ``idx_n``, shape (n,); called before any value is read."""
        return idx_n

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        """Changed values of the minibatch, shape (n, g); the input must not be modified."""
        return x_ng


@dataclass(frozen=True)
class AugmentationInputs:
    """What an augmentation is built from.

    Attributes:
        settings: the section ``copies`` of the configuration.
        preparation: how the values of the cells were prepared.
        tables: what was computed from the cells before training, with neighbours or a trained augmenter where needed.
        pick_neighbors: finds neighbours where cells stay on disk; None where ``tables`` has a table of them.
    """

    settings: Any
    preparation: Preparation
    tables: Any
    pick_neighbors: PickNeighbors | None = None

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width); for images alone."""
        assert self.preparation.image_shape is not None
        return self.preparation.image_shape


@dataclass(frozen=True)
class AugmentationEntry:
    """A registered augmentation.

    Attributes:
        build: makes it.
        kinds: kinds of data that it is for: "images", "counts", "log".
        default_for: kinds of data for which 'auto' applies it, in the order of registration.
        needs_neighbors: whether each cell's nearest cells must be known. They are not searched among images that are
            generated on demand, for which it is then not available.
    """

    build: Callable[[AugmentationInputs], Augmentation]
    kinds: tuple[str, ...]
    default_for: tuple[str, ...] = ()
    needs_neighbors: bool = False


AUGMENTATIONS: registry.Registry[AugmentationEntry] = registry.AUGMENTATIONS
"""Augmentations by the name that ``--copies`` takes."""


def register_augmentation(
    name: str,
    build: Callable[[AugmentationInputs], Augmentation],
    kinds: tuple[str, ...],
    default_for: tuple[str, ...] = (),
    needs_neighbors: bool = False,
) -> None:
    """Let ``--copies name`` choose an augmentation; the arguments are those of :class:`AugmentationEntry`.

    Raises:
        ValueError: the name is taken.
    """
    AUGMENTATIONS.register(name, AugmentationEntry(build, kinds, default_for, needs_neighbors))


def build_augmentations(
    names: Sequence[str],
    settings: Any,
    preparation: Preparation,
    tables: Any,
    pick_neighbors: PickNeighbors | None = None,
) -> list[Augmentation]:
    """The augmentations of these names, with 'auto' already resolved, in order."""
    inputs = AugmentationInputs(settings, preparation, tables, pick_neighbors)
    return [AUGMENTATIONS[name].build(inputs) for name in names]


def augmented_rows(
    chain: Sequence[Augmentation], idx_n: Tensor, rows: Callable[[Tensor], Rows], generator: torch.Generator
) -> Rows:
    """One arm's augmented input for a minibatch.

    Args:
        chain: augmentations, applied in order.
        idx_n: rows of the minibatch, the same for all arms.
        rows: reads rows, given on the CPU, onto the generator's device.
        generator: the arm's own.
    """
    return changed_rows(chain, chosen_rows(chain, idx_n, generator), rows, generator)


def chosen_rows(chain: Sequence[Augmentation], idx_n: Tensor, generator: torch.Generator) -> Tensor:
    """The cells that an arm sees in place of cells ``idx_n``."""
    for augmentation in chain:
        idx_n = augmentation.choose_rows(idx_n, generator)
    return idx_n


def changed_rows(
    chain: Sequence[Augmentation], idx_n: Tensor, rows: Callable[[Tensor], Rows], generator: torch.Generator
) -> Rows:
    """The values of chosen cells after all changes."""
    x = rows(idx_n)
    for augmentation in chain:
        if augmentation.elementwise:
            x = x.map_values(functools.partial(augmentation.transform, generator=generator))
        elif type(augmentation).transform is not Augmentation.transform:
            x = DenseRows(augmentation.transform(x.dense(), generator))
    return x
