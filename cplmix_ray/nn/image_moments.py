"""Moments of an image: the place and size of its content, and a view of it at a standard place and size."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

VIEW_RADIUS = 0.18
"""Size of a view's content, as a share of the view's side; content that extends to 2.7 times its size is whole."""
MIN_SIZE = 0.5
"""Content of at most this size, in pixels, is not enlarged."""


@dataclass(frozen=True)
class Content:
    """Place and size of the content of n images.

    Attributes:
        middle_n2: centre of mass, across and down, from -1 to 1 over either side; 0 where an image is empty.
        size_n: root mean square distance from the centre of mass in pixels; invariant to rotation.
        reach_n: distance in pixels from the centre of mass to the farthest corner of the bounding box.
    """

    middle_n2: Tensor
    size_n: Tensor
    reach_n: Tensor


def content_moments(x_ng: Tensor, image_shape: tuple[int, int]) -> Content:
    """Centre of mass, size and extent of each image's brightness."""
    n, device = len(x_ng), x_ng.device
    images, mass_n = x_ng.view(n, *image_shape), x_ng.sum(1).clamp_min(1e-6)
    middle, square_n, reach = [], torch.zeros(n, device=device), []
    for profile in (images.sum(1), images.sum(2)):  # across, down
        length = profile.shape[1]
        at = torch.arange(length, device=device) + 0.5
        centre_n = torch.where(profile.any(1), profile @ at / mass_n, length / 2)
        square_n += profile @ at.square() / mass_n - centre_n.square()
        away = ((at - centre_n[:, None]).abs() + 0.5) * (profile > 0)
        middle.append(2 * centre_n / length - 1)
        reach.append(away.amax(1))
    return Content(torch.stack(middle, -1), square_n.clamp_min(0).sqrt(), torch.hypot(*reach))


def crop_squares(x_ng: Tensor, image_shape: tuple[int, int], turn_n22: Tensor, from_n2: Tensor, side: int) -> Tensor:
    """Square windows of ``side`` pixels of the images, rotated and scaled.

    Args:
        turn_n22: linear map from pixels of the square to pixels of the image.
        from_n2: point of the image in the middle of the square, across and down, from -1 to 1 over either side.

    Returns:
        Shape (n, side, side); 0 outside the image.
    """
    n, (height, width) = len(x_ng), image_shape
    units_21 = torch.tensor([[side / width], [side / height]], device=x_ng.device)
    grid = affine_grid(torch.cat([turn_n22 * units_21, from_n2[:, :, None]], dim=2), [n, 1, side, side], False)
    images = x_ng.view(n, 1, height, width)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]


def view_side(image_shape: tuple[int, int]) -> int:
    """Side of a view in pixels."""
    return (min(image_shape) + 1) // 2


def content_view(x_ng: Tensor, image_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The content of the images, each in the middle of a square and at the same size.

    Returns:
        The squares, shape (n, view_side ** 2), and the original place and size, (n, 3): the centre of mass across and
        down, and the logarithm of the size in pixels.
    """
    content, side = content_moments(x_ng, image_shape), view_side(image_shape)
    # An empty image or a single pixel keeps its size.
    some_n = content.size_n > MIN_SIZE
    finer_n = torch.where(some_n, content.size_n / (VIEW_RADIUS * side), torch.ones_like(content.size_n))
    turn_n22 = torch.eye(2, device=x_ng.device) * finer_n[:, None, None]
    square_nss = crop_squares(x_ng, image_shape, turn_n22, content.middle_n2, side)
    pose_n3 = torch.cat([content.middle_n2, content.size_n.clamp_min(MIN_SIZE).log()[:, None]], dim=1)
    return square_nss.reshape(len(x_ng), -1), pose_n3
