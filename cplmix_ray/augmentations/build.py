"""From settings to a chain of copies."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch

from cplmix_ray.augmentations.affine import Affine
from cplmix_ray.augmentations.base import Copy
from cplmix_ray.augmentations.expression import GeneDropout, Thinning
from cplmix_ray.augmentations.learned import Learned
from cplmix_ray.augmentations.neighbors import Neighbours, NeighboursAtHand
from cplmix_ray.augmentations.placement import Centre, Deskew, Move, Standardise
from cplmix_ray.augmentations.pose import Pose
from cplmix_ray.config import Copies
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.models.vaegan.frozen import revive

StandIns: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]

_PLACES: dict[str, Callable[[tuple[int, int]], Copy]] = {"centre": Centre, "deskew": Deskew, "move": Move}
"""Kinds that need the image's shape alone."""


def build_copies(
    kinds: Sequence[str], copies: Copies, data: TrainingSet, stand_ins: StandIns | None = None
) -> list[Copy]:
    """The chain of the named kinds, with 'auto' already resolved.

    Args:
        stand_ins: picks neighbours where cells stay on disk.
    """
    chain: list[Copy] = []
    for kind in kinds:
        if kind == "neighbours":
            chain.append(_neighbours(data, stand_ins))
        elif kind == "affine":
            assert data.preparation.image_shape is not None
            bounds = (copies.rotation, copies.zoom, copies.shear, copies.shift, copies.stretch)
            chain.append(Affine(data.preparation.image_shape, *bounds))
        elif kind == "standardise":
            assert data.preparation.image_shape is not None
            chain.append(Standardise(data.preparation.image_shape, copies.content_radius))
        elif kind == "pose":
            assert data.preparation.image_shape is not None
            chain.append(Pose(data.preparation.image_shape, copies.rotation))
        elif kind in _PLACES:
            assert data.preparation.image_shape is not None
            chain.append(_PLACES[kind](data.preparation.image_shape))
        elif kind == "thinning":
            chain.append(Thinning(copies.thinning_keep))
        elif kind == "gene_dropout":
            chain.append(GeneDropout(copies.drop_genes, copies.expression_noise))
        elif kind == "learned":
            assert data.augmenter is not None
            chain.append(Learned(revive(data.augmenter)))
    return chain


def _neighbours(data: TrainingSet, stand_ins: StandIns | None) -> Copy:
    if data.places is None:
        assert data.neighbours is not None
        return Neighbours(torch.as_tensor(data.neighbours))
    assert stand_ins is not None
    return NeighboursAtHand(data.places.k, stand_ins)
