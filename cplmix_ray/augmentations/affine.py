"""Affine augmentation of images."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cplmix_ray.augmentations.augmentation import Augmentation, AugmentationInputs, register_augmentation


@dataclass(frozen=True)
class Affine(Augmentation):
    """Rotation, zoom, shear, shift and stretch, each drawn uniformly within its bound for each image.

    Args:
        image_shape: (height, width).
        rotation: degrees; zoom, shear: relative; shift: share of either side.
        stretch: relative change of the content's width, with the inverse change of its height, before the rotation.
    """

    image_shape: tuple[int, int]
    rotation: float
    zoom: float
    shear: float
    shift: float
    stretch: float = 0.0

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        n = x_ng.shape[0]
        draw_n5 = torch.rand((n, 5), generator=generator, device=generator.device) * 2 - 1
        angle_n = draw_n5[:, 0] * math.radians(self.rotation)
        size_n = 1.0 / (1.0 + draw_n5[:, 1] * self.zoom)
        shear_n = draw_n5[:, 2] * self.shear
        # Coordinates run from -1 to 1, so a shift by the share f of a side is 2 f, ...
        shift_n2 = draw_n5[:, 3:] * (2.0 * self.shift)
        cos_n, sin_n = torch.cos(angle_n) * size_n, torch.sin(angle_n) * size_n
        # ... and in an image that is not square their units differ.
        height, width = self.image_shape
        row_x = torch.stack([cos_n, (shear_n * cos_n - sin_n) * (height / width), shift_n2[:, 0]], dim=-1)
        row_y = torch.stack([sin_n * (width / height), shear_n * sin_n + cos_n, shift_n2[:, 1]], dim=-1)
        affine_n23 = torch.stack([row_x, row_y], dim=1)
        if self.stretch:
            wider_n = 1.0 + (torch.rand(n, generator=generator, device=generator.device) * 2 - 1) * self.stretch
            affine_n23[..., :2] *= torch.stack([1.0 / wider_n, wider_n], dim=-1)[..., None]
        grid = affine_grid(affine_n23, [n, 1, *self.image_shape], align_corners=False)
        images = x_ng.view(n, 1, *self.image_shape)
        return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).view(n, -1)


def _build(inputs: AugmentationInputs) -> Affine:
    s = inputs.settings
    return Affine(inputs.image_shape, s.rotation, s.zoom, s.shear, s.shift, s.stretch)


register_augmentation("affine", _build, kinds=("images",), default_for=("images",))
