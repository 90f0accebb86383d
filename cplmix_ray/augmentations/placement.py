"""Augmentations that change where the content of an image is, its size, or its slant."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cplmix_ray.augmentations.augmentation import Augmentation, register_augmentation
from cplmix_ray.nn.image_moments import MIN_SIZE, content_moments

FAINT = 0.02
"""Pixels below this count as empty; interpolation leaves faint ones around the content."""


@dataclass(frozen=True)
class Centre(Augmentation):
    """The content's bounding box goes to the middle of the image, so that turning and zooming keep it inside."""

    image_shape: tuple[int, int]

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        images = x_ng.view(-1, *self.image_shape)
        down, across = (torch.div(before - after, 2, rounding_mode="floor") for before, after in _margins(images))
        return _shifted(images, -down, -across)


@dataclass(frozen=True)
class Standardise(Augmentation):
    """The content's centre of mass goes to the middle of the image, and its size becomes the same in all images.

    Args:
        image_shape: (height, width).
        radius: root mean square radius that it gets, as a share of the shorter side.
    """

    image_shape: tuple[int, int]
    radius: float

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        n, images = len(x_ng), x_ng.view(-1, 1, *self.image_shape)
        content = content_moments(x_ng, self.image_shape)
        finer_n = content.size_n / (self.radius * min(self.image_shape))
        # An empty image or a single pixel keeps its size.
        finer_n = torch.where(content.size_n > MIN_SIZE, finer_n, torch.ones_like(finer_n))
        rows = torch.eye(2, device=x_ng.device) * finer_n[:, None, None]
        grid = affine_grid(torch.cat([rows, content.middle_n2[:, :, None]], dim=2), [n, 1, *self.image_shape], False)
        return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).view(n, -1)


@dataclass(frozen=True)
class Deskew(Augmentation):
    """The content is sheared until it is upright (LeCun et al. 1998).

    Content is upright if its horizontal and vertical coordinates have no covariance; each row moves in proportion to
    its distance from the centre of mass.
    """

    image_shape: tuple[int, int]

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        n, (height, width) = len(x_ng), self.image_shape
        middle_n2 = content_moments(x_ng, self.image_shape).middle_n2
        down = torch.linspace(1 / height - 1, 1 - 1 / height, height, device=x_ng.device) - middle_n2[:, 1:]
        across = torch.linspace(1 / width - 1, 1 - 1 / width, width, device=x_ng.device) - middle_n2[:, :1]
        images_nyx = x_ng.view(n, height, width)
        square_n = (images_nyx.sum(2) * down.square()).sum(1)
        both_n = torch.einsum("nyx,ny,nx->n", images_nyx, down, across)
        # Content of a single row has no slant.
        shear_n = torch.where(square_n > 1e-6, both_n / square_n.clamp_min(1e-6), torch.zeros_like(both_n))
        ones_n, zeros_n = torch.ones_like(shear_n), torch.zeros_like(shear_n)
        rows = [ones_n, shear_n, -shear_n * middle_n2[:, 1], zeros_n, ones_n, zeros_n]
        grid = affine_grid(torch.stack(rows, dim=1).view(n, 2, 3), [n, 1, height, width], align_corners=False)
        images = images_nyx[:, None]
        return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False).view(n, -1)


@dataclass(frozen=True)
class Move(Augmentation):
    """The content is moved by whole pixels to a random place, uniform among those that keep it inside the image."""

    image_shape: tuple[int, int]

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        images = x_ng.view(-1, *self.image_shape)
        draw_n2 = torch.rand((len(images), 2), generator=generator, device=generator.device)
        down, across = (
            (draw_n2[:, axis] * (before + after + 1)).long().clamp_max(before + after) - before
            for axis, (before, after) in enumerate(_margins(images))
        )
        return _shifted(images, down, across)


def _margins(images_nyx: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Empty pixels before and after the content, downwards and across; all zero where an image is empty."""
    margins = []
    for axis in (2, 1):
        full = (images_nyx > FAINT).any(dim=axis).to(torch.uint8)
        some = full.any(dim=1)
        margins.append((full.argmax(dim=1) * some, full.flip(1).argmax(dim=1) * some))
    return margins


def _shifted(images_nyx: Tensor, down_n: Tensor, across_n: Tensor) -> Tensor:
    """Each image shifted by whole pixels; pixels that leave on one side enter on the other."""
    n, height, width = images_nyx.shape
    device = images_nyx.device
    rows = (torch.arange(height, device=device) - down_n[:, None]) % height
    columns = (torch.arange(width, device=device) - across_n[:, None]) % width
    flat = rows[:, :, None] * width + columns[:, None, :]
    return images_nyx.reshape(n, -1).gather(1, flat.view(n, -1))


register_augmentation("centre", lambda inputs: Centre(inputs.image_shape), kinds=("images",))
register_augmentation(
    "standardise",
    lambda inputs: Standardise(inputs.image_shape, inputs.settings.content_radius),
    kinds=("images",),
)
register_augmentation("deskew", lambda inputs: Deskew(inputs.image_shape), kinds=("images",))
register_augmentation("move", lambda inputs: Move(inputs.image_shape), kinds=("images",))
