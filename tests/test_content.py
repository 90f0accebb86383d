"""What an image shows, measured: copies with another image's pose, and an encoder that does not see the pose."""

import math

import numpy as np
import pytest
import torch
from test_dsprites import render

from cplmix_ray.augmentations.augmentation import build_augmentations
from cplmix_ray.augmentations.pose import Pose
from cplmix_ray.data.io.dsprites import SIDE
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.distributions.likelihood import LIKELIHOODS
from cplmix_ray.models.cplmixvae.config import Copies, CplMixVAEConfig, ModelSettings
from cplmix_ray.models.cplmixvae.dataset import ArmTables
from cplmix_ray.models.cplmixvae.network import ArmShape, PackedArms
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.nn.image_moments import content_moments, content_view, view_side
from cplmix_ray.utils.errors import InputError

SHAPE = (SIDE, SIDE)
SQUARE, ELLIPSE, HEART = range(3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sprites(shape: int, n: int = 200, orientation: int | None = None) -> torch.Tensor:
    """One shape in every size, at random places."""
    rng = np.random.default_rng(shape)
    turn_n = rng.integers(0, 40, n) if orientation is None else np.full(n, orientation)
    classes = [np.zeros(n), np.full(n, shape), np.arange(n) % 6, turn_n, *rng.integers(0, 32, (2, n))]
    return torch.from_numpy(render(np.stack(classes, axis=-1).astype(np.int64))).view(n, -1)


def test_a_block_is_where_it_is_and_as_large_as_it_is():
    image = torch.zeros(20, 40)
    image[4:8, 30:36] = 0.5
    content = content_moments(image.view(1, -1), (20, 40))
    torch.testing.assert_close(content.middle_n2, torch.tensor([[2 * 33 / 40 - 1, 2 * 6 / 20 - 1]]))
    torch.testing.assert_close(content.size_n, torch.tensor([math.sqrt((4**2 - 1 + 6**2 - 1) / 12)]))
    torch.testing.assert_close(content.reach_n, torch.tensor([math.hypot(2, 3)]))


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_a_posed_copy_has_the_place_and_size_of_another_image_and_loses_none_of_its_own_content(shape):
    images = sprites(shape)
    before = images.clone()
    posed = Pose(SHAPE, 180.0).transform(images, generator())
    assert torch.equal(images, before)
    assert set(posed.unique().tolist()) == {0.0, 1.0}
    old, new = content_moments(images, SHAPE), content_moments(posed, SHAPE)
    away = torch.cdist(
        torch.cat([new.middle_n2 * 32, new.size_n[:, None]], 1), torch.cat([old.middle_n2 * 32, old.size_n[:, None]], 1)
    )
    nearest = away.min(dim=1)
    assert nearest.values.max() < 0.6  # pixels
    assert len(nearest.indices.unique()) > 190
    # As much of the area as the square of the size, whatever the size has become.
    torch.testing.assert_close(
        (posed.sum(1) / new.size_n**2).mean(), (images.sum(1) / old.size_n**2).mean(), rtol=0.01, atol=0
    )


def test_posed_copies_turn_either_way_up_to_their_bound():
    """By the direction of the long axis of an ellipse."""
    bars = sprites(ELLIPSE, 400, orientation=0)

    def direction(x_ng: torch.Tensor) -> torch.Tensor:
        at = torch.arange(SIDE) + 0.5
        down, across = (
            at.view(shape) - ((content_moments(x_ng, SHAPE).middle_n2[:, axis] + 1) * SIDE / 2)[:, None, None]
            for axis, shape in ((1, (1, -1, 1)), (0, (1, 1, -1)))
        )
        images = x_ng.view(-1, *SHAPE)
        moment = [(images * product).sum((1, 2)) for product in (down * across, across**2 - down**2)]
        return torch.rad2deg(0.5 * torch.atan2(2 * moment[0], moment[1]))

    turned = (direction(Pose(SHAPE, 30.0).transform(bars, generator())) - direction(bars) + 90) % 180 - 90
    assert 28 < turned.max() < 34
    assert -34 < turned.min() < -28
    still = (direction(Pose(SHAPE, 0.0).transform(bars, generator())) - direction(bars) + 90) % 180 - 90
    assert still.abs().max() < 4


def test_grey_images_stay_grey_and_the_chain_is_built_by_name():
    chain = build_augmentations(
        ["pose"],
        Copies(copies=("pose",), rotation=45.0),
        Preparation("images", (), image_shape=(12, 17)),
        ArmTables(),
    )
    assert chain == [Pose((12, 17), 45.0)]
    grey = torch.zeros(2, 12, 17)
    grey[0, 2:6, 3:9], grey[1, 5:11, 8:14] = 0.3, 0.8
    posed = chain[0].transform(grey.view(2, -1), generator())
    assert 0 < posed.max() <= 0.81
    assert len(posed.unique()) > 3


@pytest.mark.parametrize("value", [0.0, 1.0], ids=["empty", "full"])
def test_images_that_are_empty_or_full_stay_finite(value):
    images = torch.full((5, 12 * 17), value)
    out = Pose((12, 17), 90.0).transform(images, generator())
    squares, pose = content_view(images, (12, 17))
    assert out.shape == images.shape
    assert squares.shape == (5, 36)
    assert all(torch.isfinite(x).all() for x in (out, squares, pose))


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_a_view_shows_one_shape_alike_in_all_places_and_sizes_and_whole(shape):
    squares, pose = content_view(sprites(shape, orientation=3), SHAPE)
    images = squares.view(-1, view_side(SHAPE), view_side(SHAPE))
    assert (images - images.mean(0)).abs().mean() < 0.03
    edge = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert edge.max() == 0
    assert pose[:, 2].exp().max() / pose[:, 2].exp().min() == pytest.approx(2, rel=0.1)


def arms(encoder_view: str) -> PackedArms:
    model = ModelSettings(n_categories=3, state_dim=4, hidden=(16,), encoder_view=encoder_view, batch_norm=False)
    network = PackedArms(2, model, ArmShape(SIDE * SIDE, LIKELIHOODS["bernoulli"], image_shape=SHAPE))
    network.draw([generator(arm) for arm in range(2)])
    return network.eval()


def test_with_a_view_of_the_content_the_category_knows_no_place_and_the_state_does():
    network = arms("content")
    classes = np.array([[0, HEART, 5, 7, x, y] for x, y in ((0, 0), (31, 0), (31, 31))])
    x_ang = torch.from_numpy(render(classes)).view(1, 3, -1).expand(2, -1, -1)
    encoded = network.encode(x_ang)
    # 31 steps are 32 whole pixels: to the encoder it is the same image.
    torch.testing.assert_close(encoded.log_q_ank, encoded.log_q_ank[:, :1].expand(-1, 3, -1), rtol=0, atol=1e-4)
    mu_and, _ = network.state(encoded.z_anb, encoded.log_q_ank.exp())
    assert (mu_and[:, 0] - mu_and[:, 1]).abs().max() > 0.01
    assert network.decode(mu_and, encoded.log_q_ank.exp()).shape == (2, 3, SIDE * SIDE)


def test_a_view_of_the_whole_changes_nothing():
    network = arms("whole")
    assert network.encoder.linears[0].weight.shape[1] == SIDE * SIDE
    assert not any("pose" in name for name in network.state_dict())


def test_cells_have_no_view_of_their_content(tmp_path):
    import anndata

    path = tmp_path / "cells.h5ad"
    anndata.AnnData(np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)).write_h5ad(path)
    with pytest.raises(InputError, match="--encoder-view content is for images"):
        build_dataset(
            read_source(str(path)), CplMixVAEConfig(model=ModelSettings(n_categories=2, encoder_view="content"))
        )
