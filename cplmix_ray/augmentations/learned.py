"""Copies that a frozen augmenter makes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.augmentations.base import Copy
from cplmix_ray.models.vaegan.networks import Augmenter


@dataclass(frozen=True)
class Learned(Copy):
    """Each cell is encoded and decoded with noise beside its code; the augmenter learns nothing any more."""

    augmenter: Augmenter

    @torch.no_grad()
    def alter(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        return self.augmenter.to(x_ng.device).noisy_copy(x_ng, generator)
