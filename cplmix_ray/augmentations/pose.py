"""Copies whose content has the place and the size of another image's content."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cplmix_ray.augmentations.base import Copy
from cplmix_ray.nn.image_moments import SPECK, measure, sample


@dataclass(frozen=True)
class Pose(Copy):
    """The content turns, and takes the place and the size of that of another image of the minibatch.

    All three at once, as every interpolation costs time and sharpness. Places and sizes stay those of the data and
    say nothing more of the image that the copy is of. Images of 0 and 1 alone stay so: how blurred an edge is would
    tell how large the content has been.

    Args:
        image_shape: (height, width).
        rotation: largest, in degrees.
    """

    image_shape: tuple[int, int]
    rotation: float

    def alter(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        n, (height, width), device = len(x_ng), self.image_shape, x_ng.device
        content = measure(x_ng, self.image_shape)
        other_n = torch.randperm(n, generator=generator, device=device)
        angle_n = (torch.rand(n, generator=generator, device=device) * 2 - 1) * math.radians(self.rotation)
        size_n, wanted_n = content.size_n, content.size_n[other_n]
        finer_n = torch.where((size_n > SPECK) & (wanted_n > SPECK), size_n / wanted_n, torch.ones_like(size_n))
        cos_n, sin_n = torch.cos(angle_n) * finer_n, torch.sin(angle_n) * finer_n
        turn_n22 = torch.stack([cos_n, -sin_n, sin_n, cos_n], dim=-1).view(n, 2, 2)
        # Only a square around each content is drawn, from a whole pixel on.
        side = min(height, width, 2 * math.ceil(float((content.reach_n / finer_n).max()) + 1))
        sides_2 = torch.tensor([width, height], device=device)
        to_n2 = (content.middle_n2[other_n] + 1) / 2 * sides_2
        corner_n2 = torch.minimum((to_n2 - side / 2).round().clamp_min(0), sides_2 - side)
        away_n2 = (turn_n22 @ (corner_n2 + side / 2 - to_n2)[:, :, None])[:, :, 0] * 2 / sides_2
        square_nss = sample(x_ng, self.image_shape, turn_n22, content.middle_n2 + away_n2, side)
        if bool(((x_ng == 0) | (x_ng == 1)).all()):
            square_nss = (square_nss > 0.5).to(square_nss)
        along = torch.arange(side, device=device)
        row_ns, column_ns = (corner_n2[:, axis, None].long() + along for axis in (1, 0))
        at_ng = (row_ns[:, :, None] * width + column_ns[:, None, :]).view(n, -1)
        return torch.zeros_like(x_ng).scatter_(1, at_ng, square_nss.reshape(n, -1))
