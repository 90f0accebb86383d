"""Copies that say where in an image its content is: in the middle, of one size, or anywhere, and never cut."""

import numpy as np
import pytest
import scipy.stats
import torch

from cplmix_ray.augmentations.affine import Affine
from cplmix_ray.augmentations.augmentation import build_augmentations
from cplmix_ray.augmentations.placement import Centre, Deskew, Move, Standardise
from cplmix_ray.data.io.dsprites import N_IMAGES, DSprites
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.models.cplmixvae.config import Copies
from cplmix_ray.models.cplmixvae.dataset import ArmTables

SHAPE = (12, 17)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block(top: int, left: int, height: int = 3, width: int = 4) -> torch.Tensor:
    """An uneven patch, so that a flip or a swap would show."""
    image = torch.zeros(SHAPE)
    image[top : top + height, left : left + width] = torch.arange(1.0, height * width + 1).view(height, width)
    return image.view(1, -1)


def sprites(n: int = 300) -> torch.Tensor:
    return torch.from_numpy(DSprites().rows(np.random.default_rng(0).integers(0, N_IMAGES, n)))


@pytest.mark.parametrize(("top", "left"), [(0, 0), (9, 13), (2, 5)])
def test_centring_moves_the_content_to_the_middle_and_changes_nothing_else(top, left):
    centred = Centre(SHAPE).transform(block(top, left), generator())
    torch.testing.assert_close(centred, block(5, 7), rtol=0, atol=0)
    torch.testing.assert_close(Centre(SHAPE).transform(centred, generator()), centred, rtol=0, atol=0)


def test_moved_content_is_whole_and_every_place_is_equally_likely():
    n = 20_000
    moved = Move(SHAPE).transform(block(2, 5).expand(n, -1), generator()).view(n, *SHAPE)
    top_n = (moved.sum(2) > 0).float().argmax(1)
    left_n = (moved.sum(1) > 0).float().argmax(1)
    for i in range(50):
        torch.testing.assert_close(moved[i].view(1, -1), block(int(top_n[i]), int(left_n[i])), rtol=0, atol=0)
    counts = np.zeros((10, 14))
    np.add.at(counts, (top_n.numpy(), left_n.numpy()), 1)
    assert counts.sum() == n
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3


@pytest.mark.parametrize(
    "kind", [Centre(SHAPE), Move(SHAPE), Standardise(SHAPE, 0.1), Deskew(SHAPE)], ids=lambda k: type(k).__name__
)
@pytest.mark.parametrize("value", [0.0, 1.0], ids=["empty", "full"])
def test_images_that_are_empty_or_full_stay_finite(kind, value):
    images = torch.full((5, SHAPE[0] * SHAPE[1]), value)
    before = images.clone()
    out = kind.transform(images, generator())
    assert torch.equal(images, before)
    assert torch.isfinite(out).all()
    if isinstance(kind, Deskew):
        torch.testing.assert_close(out, images, rtol=0, atol=1e-5)  # it interpolates between pixels
    elif value == 0.0 or not isinstance(kind, Standardise):
        assert torch.equal(out, images)


def sizes_of(x_ng: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of mass (n, 2) and root mean square distances from them, in pixels."""
    at = torch.arange(64) + 0.5
    images = x_ng.view(-1, 64, 64).double()
    mass = images.sum((1, 2))
    centre = torch.stack([(images.sum(1) @ at.double()) / mass, (images.sum(2) @ at.double()) / mass], -1)
    square = (images.sum(1) @ at.double().square() + images.sum(2) @ at.double().square()) / mass
    return centre, (square - centre.square().sum(-1)).sqrt()


def test_standardised_content_has_one_place_and_one_size():
    centre, size = sizes_of(Standardise((64, 64), 0.1).transform(sprites(), generator()))
    torch.testing.assert_close(centre, torch.full_like(centre, 32.0), rtol=0, atol=0.1)
    assert size.mean() == pytest.approx(6.4, rel=0.05)
    assert size.std() / size.mean() < 0.03
    assert sizes_of(sprites())[1].std() / sizes_of(sprites())[1].mean() > 0.2


def test_a_deskewed_bar_is_upright_wherever_it_is_and_keeps_its_rows():
    """A slanted bar becomes an upright one: its rows all at one place across, where its middle was."""
    height, width = SHAPE
    row, column = torch.arange(height)[:, None], torch.arange(width)
    for slant in (-0.5, 0.0, 0.4):
        at = 8.0 + slant * (row - 5.0)
        bar = (torch.exp(-((column - at) ** 2) / 2) * ((row > 1) & (row < 9))).view(1, -1)
        upright = Deskew(SHAPE).transform(bar, generator()).view(height, width)
        across = (upright * column).sum(1)[2:9] / upright.sum(1)[2:9]
        torch.testing.assert_close(across, torch.full_like(across, 8.0), rtol=0, atol=0.05)
        torch.testing.assert_close(upright.sum(1), bar.view(height, width).sum(1), rtol=0.01, atol=1e-3)


def test_a_turned_and_zoomed_sprite_stays_whole_where_it_is_centred_first():
    """An affine copy turns about the middle of the image, and so takes sprites near a corner out of it."""
    x_ng = sprites()
    affine, move = Affine((64, 64), 180.0, 0.4, 0.0, 0.0), Move((64, 64))
    first = Centre((64, 64)).transform(x_ng, generator())

    def on_the_edge(images: torch.Tensor) -> float:
        images = images.view(-1, 64, 64) > 0.5
        edge = images[:, 0].any(1) | images[:, -1].any(1) | images[:, :, 0].any(1) | images[:, :, -1].any(1)
        return float(edge.float().mean())

    turned = affine.transform(first, generator(1))
    assert on_the_edge(affine.transform(x_ng, generator(1))) > 0.01
    assert on_the_edge(turned) == 0.0
    moved = move.transform(turned, generator(2))
    torch.testing.assert_close(moved.sum(1), turned.sum(1))
    spread = sizes_of(moved)[0].std(0)
    assert (spread > 10).all()


def test_the_chain_is_built_from_settings():
    preparation = Preparation("images", ("p",) * 4096, image_shape=(64, 64))
    kinds = ("centre", "standardise", "deskew", "move")
    chain = build_augmentations(kinds, Copies(content_radius=0.2), preparation, ArmTables())
    assert chain == [Centre((64, 64)), Standardise((64, 64), 0.2), Deskew((64, 64)), Move((64, 64))]
