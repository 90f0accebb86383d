"""Augmentation by a trained VAE-GAN."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.augmentations.augmentation import Augmentation, AugmentationInputs, register_augmentation
from cplmix_ray.models.vaegan.frozen import build_augmenter
from cplmix_ray.models.vaegan.networks import Augmenter


@dataclass(frozen=True)
class Learned(Augmentation):
    """Encodes each cell and decodes it with noise; the networks are not trained any more."""

    augmenter: Augmenter

    @torch.no_grad()
    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        return self.augmenter.to(x_ng.device).noisy_copy(x_ng, generator)


def _build(inputs: AugmentationInputs) -> Learned:
    assert inputs.tables.augmenter is not None
    return Learned(build_augmenter(inputs.tables.augmenter))


register_augmentation("learned", _build, kinds=("images", "log"))
