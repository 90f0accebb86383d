"""What an image shows, by its moments: where it is, and how large."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

VIEW_RADIUS = 0.18
"""Size of what a view shows, as a share of its side: content that reaches 2.7 times its size is whole in it."""
SPECK = 0.5
"""Content of this size in pixels, or less, has no shape that could be shown larger."""


@dataclass(frozen=True)
class Content:
    """Where the content of n images is, and how large.

    Attributes:
        middle_n2: centre of mass, across and down, from -1 to 1 over either side; 0 where an image is empty.
        size_n: root mean square distance from it in pixels, which turning does not change.
        reach_n: pixels from there to the farthest corner of the bounding box.
    """

    middle_n2: Tensor
    size_n: Tensor
    reach_n: Tensor


def measure(x_ng: Tensor, image_shape: tuple[int, int]) -> Content:
    """Moments of the images' brightness."""
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


def sample(x_ng: Tensor, image_shape: tuple[int, int], turn_n22: Tensor, from_n2: Tensor, side: int) -> Tensor:
    """Squares of ``side`` pixels out of the images, turned and scaled.

    Args:
        turn_n22: from pixels of the square to pixels of the image.
        from_n2: what comes to the middle of the square, across and down, from -1 to 1 over either side of the image.

    Returns:
        Shape (n, side, side); 0 where there is no image.
    """
    n, (height, width) = len(x_ng), image_shape
    units_21 = torch.tensor([[side / width], [side / height]], device=x_ng.device)
    grid = affine_grid(torch.cat([turn_n22 * units_21, from_n2[:, :, None]], dim=2), [n, 1, side, side], False)
    images = x_ng.view(n, 1, height, width)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, 0]


def view_side(image_shape: tuple[int, int]) -> int:
    """Pixels along the side of a view."""
    return (min(image_shape) + 1) // 2


def view(x_ng: Tensor, image_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What the images show, each in the middle of a square and of the same size.

    Returns:
        The squares, shape (n, view_side ** 2), and what they leave out, (n, 3): the middle across and down, and the
        logarithm of the size in pixels.
    """
    content, side = measure(x_ng, image_shape), view_side(image_shape)
    # An image that is empty, or a single pixel, stays as large as it is.
    some_n = content.size_n > SPECK
    finer_n = torch.where(some_n, content.size_n / (VIEW_RADIUS * side), torch.ones_like(content.size_n))
    turn_n22 = torch.eye(2, device=x_ng.device) * finer_n[:, None, None]
    square_nss = sample(x_ng, image_shape, turn_n22, content.middle_n2, side)
    pose_n3 = torch.cat([content.middle_n2, content.size_n.clamp_min(SPECK).log()[:, None]], dim=1)
    return square_nss.reshape(len(x_ng), -1), pose_n3
