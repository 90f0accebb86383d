"""Augmentation of images: the content gets the place and size of another image's content."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.augmentations.augmentation import Augmentation, register_augmentation
from cplmix_ray.nn.image_moments import MIN_SIZE, content_moments, crop_squares


@dataclass(frozen=True)
class Pose(Augmentation):
    """The content is rotated, and gets the place and size of the content of another image of the minibatch.

    Rotation, shift and zoom are one interpolation, as each costs time and blurs. Places and sizes keep the distribution
    of the data, independent of the original image. Binary images stay binary: the blur of an edge would reveal the
    original size.

    Args:
        image_shape: (height, width).
        rotation: largest angle, in degrees.
    """

    image_shape: tuple[int, int]
    rotation: float

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        n, (height, width), device = len(x_ng), self.image_shape, x_ng.device
        content = content_moments(x_ng, self.image_shape)
        other_n = torch.randperm(n, generator=generator, device=device)
        angle_n = (torch.rand(n, generator=generator, device=device) * 2 - 1) * math.radians(self.rotation)
        size_n, wanted_n = content.size_n, content.size_n[other_n]
        finer_n = torch.where((size_n > MIN_SIZE) & (wanted_n > MIN_SIZE), size_n / wanted_n, torch.ones_like(size_n))
        cos_n, sin_n = torch.cos(angle_n) * finer_n, torch.sin(angle_n) * finer_n
        turn_n22 = torch.stack([cos_n, -sin_n, sin_n, cos_n], dim=-1).view(n, 2, 2)
        # Only a square around each content is computed; its corner is a whole pixel.
        side = min(height, width, 2 * math.ceil(float((content.reach_n / finer_n).max()) + 1))
        sides_2 = torch.tensor([width, height], device=device)
        to_n2 = (content.middle_n2[other_n] + 1) / 2 * sides_2
        corner_n2 = torch.minimum((to_n2 - side / 2).round().clamp_min(0), sides_2 - side)
        away_n2 = (turn_n22 @ (corner_n2 + side / 2 - to_n2)[:, :, None])[:, :, 0] * 2 / sides_2
        square_nss = crop_squares(x_ng, self.image_shape, turn_n22, content.middle_n2 + away_n2, side)
        if bool(((x_ng == 0) | (x_ng == 1)).all()):
            square_nss = (square_nss > 0.5).to(square_nss)
        along = torch.arange(side, device=device)
        row_ns, column_ns = (corner_n2[:, axis, None].long() + along for axis in (1, 0))
        at_ng = (row_ns[:, :, None] * width + column_ns[:, None, :]).view(n, -1)
        return torch.zeros_like(x_ng).scatter_(1, at_ng, square_nss.reshape(n, -1))


register_augmentation("pose", lambda inputs: Pose(inputs.image_shape, inputs.settings.rotation), kinds=("images",))
