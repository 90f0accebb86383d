"""dSprites as drawn, and archives in its layout: outlines, order, laziness, what is refused."""

import json
import os
import pickle
import zipfile

import anndata
import numpy as np
import pytest

from cplmix_ray.cli.evaluate_command import evaluate
from cplmix_ray.cli.exits import run_command
from cplmix_ray.cli.predict_command import predict
from cplmix_ray.cli.train_command import train
from cplmix_ray.config.files import parse_config
from cplmix_ray.data.io.dsprites import SIDE, SIZES, DSprites, draw, possible_values
from cplmix_ray.data.io.factor_images import FACTORS, PackedImages
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.matrix.on_demand import OnDemandMatrix
from cplmix_ray.metrics.disentanglement import disentanglement
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.utils.errors import InputError

N = 737_280
SQUARE, ELLIPSE, HEART = range(3)


def render(classes_nf: np.ndarray) -> np.ndarray:
    """Images of the given classes (n, 6): float32 of 0 and 1, shape (n, 64, 64)."""
    images = np.zeros((len(classes_nf), SIDE, SIDE), np.float32)
    draw(images, classes_nf)
    return images


def drawn(shape: int, scale: int = 5, orientation: int = 0, x: int = 0, y: int = 0) -> np.ndarray:
    return render(np.array([[0, shape, scale, orientation, x, y]]))[0]


def centre_of_mass(image: np.ndarray) -> tuple[float, float]:
    down, across = np.nonzero(image)
    return across.mean() + 0.5, down.mean() + 0.5


# Outlines


# From the authors' animation, at orientation 0 and position 0, for the six scales: pixels set, and how many columns and
# rows to the left, to the right, above and below the origin (between pixels 15 and 16) the sprite takes.
PUBLISHED = {
    SQUARE: ([100, 144, 196, 256, 324, 400], [(half, half, half, half) for half in range(5, 11)]),
    ELLIPSE: (
        [76, 104, 144, 184, 228, 288],
        [(a, a, b, b) for a, b in ((6, 4), (8, 4), (9, 5), (10, 6), (11, 6), (13, 7))],
    ),
    HEART: (
        [58, 84, 108, 140, 182, 222],
        [(w, w, up, down) for w, up, down in ((5, 5, 4), (6, 6, 5), (7, 7, 6), (8, 7, 7), (9, 8, 7), (10, 9, 8))],
    ),
}


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_sprites_are_as_large_as_the_published_ones(shape):
    for scale, (area, extent) in enumerate(zip(*PUBLISHED[shape], strict=True)):
        down, across = np.nonzero(drawn(shape, scale))
        assert abs(len(down) - area) <= 2
        assert (16 - across.min(), across.max() - 15, 16 - down.min(), down.max() - 15) == extent


# Pixels set in the same animation when the largest sprite turns, orientations 1 to 6.
@pytest.mark.parametrize(
    ("shape", "areas"),
    [
        (SQUARE, [368, 372, 368, 368, 364, 368]),
        (ELLIPSE, [288, 290, 292, 292, 288, 286]),
        (HEART, [225, 226, 225, 224, 225, 227]),
    ],
)
def test_turned_sprites_have_as_many_pixels_as_the_published_ones(shape, areas):
    assert [drawn(shape, 5, k).sum() for k in range(1, 7)] == pytest.approx(areas, abs=4)


def test_sprites_turn_anticlockwise():
    """The heart's mass is above its origin; after a quarter it is on the left, as in the animation."""
    assert centre_of_mass(drawn(HEART)) == pytest.approx((16.00, 14.07), abs=0.02)
    assert centre_of_mass(drawn(HEART, 5, 9)) == pytest.approx((13.90, 15.75), abs=0.02)
    assert centre_of_mass(drawn(HEART, 5, 19)) == pytest.approx((15.87, 17.99), abs=0.02)


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
@pytest.mark.parametrize("orientation", [0, 7])
def test_larger_scales_have_larger_areas(shape, orientation):
    areas = [drawn(shape, scale, orientation, 11, 23).sum() for scale in range(6)]
    assert (np.diff(areas) > 0).all()
    # An area goes as the square of the scale.
    assert areas[0] / areas[5] == pytest.approx(0.25, abs=0.03)


def test_pixels_are_0_or_1_and_none_is_on_the_edge():
    images = DSprites().rows(np.random.default_rng(0).integers(0, N, 500)).reshape(-1, 64, 64)
    assert images.dtype == np.float32
    assert set(np.unique(images)) == {0.0, 1.0}
    assert images[:, 0].sum() + images[:, -1].sum() + images[:, :, 0].sum() + images[:, :, -1].sum() == 0


def turned(image: np.ndarray, quarters: int) -> np.ndarray:
    """About pixel corner (16, 16), where the sprite's origin is at position 0."""
    image = image.copy()
    image[:32, :32] = np.rot90(image[:32, :32], quarters)
    return image


@pytest.mark.parametrize("orientation", [0, 3, 11, 20])
@pytest.mark.parametrize(("shape", "quarters"), [(SQUARE, 1), (SQUARE, 2), (ELLIPSE, 2)])
def test_a_turned_square_and_a_half_turned_ellipse_are_the_same(shape, quarters, orientation):
    image = drawn(shape, 5, orientation)
    assert (turned(image, quarters) != image).sum() <= 2


def test_other_turns_make_other_images():
    for shape, quarters in ((ELLIPSE, 1), (HEART, 1), (HEART, 2)):
        image = drawn(shape)
        assert (turned(image, quarters) != image).sum() > 50


def test_the_last_orientation_is_the_first():
    for shape in range(3):
        np.testing.assert_array_equal(drawn(shape, 3, 39, 5, 5), drawn(shape, 3, 0, 5, 5))


@pytest.mark.parametrize("shape", [SQUARE, ELLIPSE, HEART])
def test_the_centre_of_mass_goes_with_the_position(shape):
    step = 32 / 31
    at_0 = np.array(centre_of_mass(drawn(shape, 4, 6)))
    for k in range(32):
        assert centre_of_mass(drawn(shape, 4, 6, k, 31 - k)) == pytest.approx(
            at_0 + step * np.array([k, 31 - k]), abs=0.3
        )


# Order


def test_the_last_factor_is_the_fastest():
    assert np.prod(SIZES) == N
    data = DSprites()
    assert (data.shape, data.image_shape) == ((N, 4096), (64, 64))
    for number, classes in [
        (0, (0, 0, 0, 0, 0, 0)),
        (1, (0, 0, 0, 0, 0, 1)),
        (32, (0, 0, 0, 0, 1, 0)),
        (1024, (0, 0, 0, 1, 0, 0)),
        (40_960, (0, 0, 1, 0, 0, 0)),
        (245_760, (0, 1, 0, 0, 0, 0)),
        (N - 1, (0, 2, 5, 39, 31, 31)),
    ]:
        np.testing.assert_array_equal(data.rows(np.array([number])), render(np.array([classes])).reshape(1, -1))


def test_the_factors_are_columns_of_obs():
    source = read_source("dsprites")
    assert source.adata.shape == (N, 4096)
    assert source.adata.X is None
    assert list(source.adata.obs) == list(FACTORS)
    assert source.factors.names == FACTORS[1:]
    assert source.adata.obs["shape"].value_counts().to_dict() == {"square": N // 3, "ellipse": N // 3, "heart": N // 3}
    np.testing.assert_array_equal(source.labels_n, source.adata.obs["shape"])
    last = source.adata.obs.iloc[-1]
    assert (last["scale"], last["posX"], last["posY"]) == (1.0, 1.0, 1.0)
    assert last["orientation"] == pytest.approx(2 * np.pi)
    np.testing.assert_allclose(possible_values(2), [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def test_a_factor_can_be_the_label():
    labels_n = read_source("dsprites", None, "scale", 500).labels_n
    assert set(labels_n) == set("012345")
    with pytest.raises(InputError, match=r"'hue'.*--labels-key.*shape.*scale"):
        read_source("dsprites", None, "hue", 500)
    with pytest.raises(InputError, match=r"'raw'.*--layer"):
        read_source("dsprites", "raw", None, 500)


# Laziness


def test_rows_are_the_same_alone_and_together():
    data = DSprites()
    idx = np.random.default_rng(1).integers(0, N, 50)
    together = data.dense_rows(idx)
    for i, number in enumerate(idx):
        np.testing.assert_array_equal(data.rows(np.array([number]))[0], together[i])
    np.testing.assert_array_equal(data.take(idx).rows(np.arange(10, 20)), together[10:20])
    np.testing.assert_array_equal(data.take(idx).take(np.arange(10, 20)).rows(np.array([3])), together[13:14])
    assert data.rows(np.array([], int)).shape == (0, 4096)


def test_what_workers_are_given_is_small():
    config = parse_config({"model": {"n_categories": 3}})
    data = build_dataset(read_source("dsprites"), config)
    data.training.matrix.rows(np.arange(5))  # tables made on the way stay behind
    assert len(pickle.dumps(data.training.matrix)) < 1000
    part = build_dataset(read_source("dsprites", subset=50_000), config).training
    sent = pickle.dumps(part)
    assert len(sent) < 5_000_000
    assert b"heart" not in sent
    idx = part.val_idx[:20]
    np.testing.assert_array_equal(pickle.loads(sent).matrix.rows(idx), part.matrix.rows(idx))


def test_a_subset_is_drawn_by_the_seed():
    one, again, other = (read_source("dsprites", None, None, 300, seed) for seed in (1, 1, 2))
    assert one.adata.obs_names.tolist() == again.adata.obs_names.tolist() != other.adata.obs_names.tolist()
    assert one.matrix.shape == (300, 4096)
    assert one.factors.classes_nf.shape == (300, 5)
    numbers = one.adata.obs_names.astype(int).to_numpy()
    assert (np.diff(numbers) > 0).all()
    np.testing.assert_array_equal(one.matrix.rows(np.arange(300)), DSprites().rows(numbers))
    np.testing.assert_array_equal(one.labels_n, np.array(["square", "ellipse", "heart"])[numbers // (N // 3)])


def test_a_subset_of_digits_keeps_images_and_labels_together():
    whole, part = read_source("digits"), read_source("digits", subset=100)
    numbers = part.adata.obs_names.astype(int)
    np.testing.assert_array_equal(part.matrix.block(), whole.matrix.block()[numbers])
    np.testing.assert_array_equal(part.labels_n, whole.labels_n[numbers])
    with pytest.raises(InputError, match=r"digits.*1797.*--subset 2000"):
        read_source("digits", subset=2000)


def test_neighbours_of_lazy_images_are_not_sought():
    source = read_source("dsprites", subset=100)
    assert build_dataset(source, parse_config({})).training.tables.neighbors is None
    with pytest.raises(
        InputError,
        match=r"--copies neighbours.*affine, centre, standardise, deskew, move, pose, learned",
    ):
        build_dataset(source, parse_config({"copies": {"copies": ["neighbours", "affine"]}}))


# Archives in the original's layout


class Unpickled:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: str):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def original(path, n: int = 60, **changed) -> str:
    """An archive in the published layout, with a pickled object as metadata; None leaves an array out."""
    index = np.sort(np.random.default_rng(0).permutation(N)[:n])
    classes = np.stack(np.unravel_index(index, SIZES), axis=-1)
    values = np.stack([possible_values(i)[classes[:, i]] for i in range(6)], axis=-1)
    arrays = {
        "imgs": render(classes).astype(np.uint8),
        "latents_classes": classes,
        "latents_values": values,
        "metadata": np.array(Unpickled(str(path) + ".trace"), dtype=object),
        **changed,
    }
    np.savez_compressed(path, **{key: array for key, array in arrays.items() if array is not None})
    return str(path)


def test_the_published_layout_is_read_and_its_metadata_left_alone(tmp_path):
    path = original(tmp_path / "original.npz")
    source = read_source(path)
    assert not (tmp_path / "original.npz.trace").exists()
    assert isinstance(source.matrix, PackedImages)
    index = np.sort(np.random.default_rng(0).permutation(N)[:60])
    np.testing.assert_array_equal(source.matrix.dense_rows(np.arange(60)), DSprites().rows(index))
    same = read_source("dsprites").adata.obs.iloc[index]
    np.testing.assert_array_equal(source.adata.obs.to_numpy(), same.to_numpy())
    assert source.matrix.bits_nb.nbytes == 60 * 4096 // 8
    part = read_source(path, subset=7)
    assert part.matrix.shape == (7, 4096)
    # The trap does go off where the object is loaded.
    np.load(path, allow_pickle=True)["metadata"]
    assert (tmp_path / "original.npz.trace").exists()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"imgs": None}, r"\bimgs\b"),
        ({"latents_classes": None}, "latents_classes"),
        ({"latents_values": None}, "latents_values"),
        ({"imgs": np.zeros((60, 4096), np.uint8)}, r"imgs.*\(n, height, width\)"),
        ({"imgs": np.zeros((60, 64, 64))}, "imgs.*float64"),
        ({"imgs": np.zeros((0, 64, 64), np.uint8)}, r"imgs.*\(0, 64, 64\)"),
        ({"imgs": np.full((60, 64, 64), 255, np.uint8)}, "imgs.*255"),
        ({"imgs": np.array([{}] * 60, dtype=object)}, "imgs.*object"),
        ({"imgs": np.zeros((59, 64, 64), np.uint8)}, r"latents_classes.*\(59, 6\).*\(60, 6\)"),
        ({"latents_values": np.zeros((60, 5))}, r"latents_values.*\(60, 6\)"),
        ({"latents_classes": np.array([{}] * 60, dtype=object)}, "[Oo]bject"),
        ({"latents_classes": np.full((60, 6), 3)}, "latents_classes.*0"),
        ({"latents_classes": np.full((60, 6), -1)}, "latents_classes.*0"),
        ({"latents_classes": np.full((60, 6), np.nan)}, "latents_classes.*0"),
    ],
    ids=lambda item: "-".join(item) if isinstance(item, dict) else "",
)
def test_a_bad_archive_is_one_sentence(tmp_path, capsys, monkeypatch, changed, words):
    path = original(tmp_path / "bad.npz", **changed)
    with pytest.raises(InputError, match=words):
        read_source(path)
    monkeypatch.setattr("sys.argv", ["train", "--data", path, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as end:
        run_command(train)
    assert end.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "bad.npz.trace").exists()


def test_a_truncated_archive_is_one_sentence(tmp_path):
    path = original(tmp_path / "cut.npz")
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.npz"):
        read_source(path)
    with (
        zipfile.ZipFile(tmp_path / "short.npz", "w") as archive,
        zipfile.ZipFile(original(tmp_path / "o.npz")) as from_,
    ):
        for name in from_.namelist():
            archive.writestr(name, from_.read(name)[:-9] if name == "imgs.npy" else from_.read(name))
    with pytest.raises(InputError, match=r"short\.npz.*imgs"):
        read_source(str(tmp_path / "short.npz"))


# From start to end


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("dsprites") / "run"
    line = ["--data", "dsprites", "--subset", "2000", "--n-categories", "3", "--engine", "local", "--max-steps", "20"]
    train([*line, "--preset", "published", "--hidden", "32", "--out", str(out)])
    return out


def test_a_run_has_scores_and_its_result_no_pixels(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert {"acc", "ari", "disentanglement"} <= set(metrics)
    result = anndata.read_h5ad(trained / "result.h5ad")
    category_n = result.obs["cplmix_category"].cat.codes.to_numpy()
    classes_nf = read_source("dsprites", subset=2000).factors.classes_nf
    expected = disentanglement(result.obsm["X_cplmix"], category_n, classes_nf, 0)["disentanglement"]
    assert metrics["disentanglement"] == pytest.approx(expected)
    assert 0.2 < expected < 0.45  # four seeds gave 0.26 to 0.32; a fifth is chance
    assert result.X is None
    assert result.n_obs == 2000
    assert {"cplmix_category", "cplmix_confidence", *FACTORS} <= set(result.obs)
    assert result.obsm["X_cplmix"].shape == (2000, 2)
    assert (trained / "result.h5ad").stat().st_size < 5_000_000


def test_evaluate_and_predict_draw_the_same_images(trained, tmp_path, capsys):
    evaluate(["--run", str(trained)])
    own, metrics = (json.loads((trained / name).read_text()) for name in ("evaluation.json", "metrics.json"))
    assert own["n_cells"] == 2000
    assert own["disentanglement"] == metrics["disentanglement"]
    assert own["acc"] == metrics["acc"]
    evaluate(["--run", str(trained), "--data", "dsprites", "--subset", "100", "--out", str(tmp_path / "few.json")])
    assert json.loads((tmp_path / "few.json").read_text())["n_cells"] == 100
    capsys.readouterr()
    predict(["--run", str(trained), "--data", "dsprites", "--subset", "2000", "--out", str(tmp_path / "again.h5ad")])
    assert "pixels" in capsys.readouterr().out
    result, again = anndata.read_h5ad(trained / "result.h5ad"), anndata.read_h5ad(tmp_path / "again.h5ad")
    assert result.obs_names.tolist() == again.obs_names.tolist()
    assert result.obs["cplmix_category"].tolist() == again.obs["cplmix_category"].tolist()


def test_images_of_another_size_are_refused(trained, tmp_path):
    with pytest.raises(InputError, match="images of"):
        predict(["--run", str(trained), "--data", "digits", "--out", str(tmp_path / "no.h5ad")])


def test_the_published_layout_is_predicted_like_the_drawn_images(trained, tmp_path):
    predict(["--run", str(trained), "--data", original(tmp_path / "o.npz"), "--out", str(tmp_path / "o.h5ad")])
    assert anndata.read_h5ad(tmp_path / "o.h5ad").obs["cplmix_category"].notna().all()


def test_lazy_rows_are_a_protocol():
    assert isinstance(read_source("dsprites", subset=5).matrix, OnDemandMatrix)
