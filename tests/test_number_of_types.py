"""The number of types: the test of a gap between two groups, division of cells, and training with the number found."""

import anndata
import numpy as np
import pytest
import yaml
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.cli.main import main
from cplmix_ray.clustering.divisive import divide
from cplmix_ray.clustering.separation import FEWEST, FOLDS, separation, separation_p_value


def clusters(k: int, n: int = 320, apart: float = 8.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 6) of k spherical Gaussians with unit overall deviation, and the Gaussian of each."""
    rng, kind_n = np.random.default_rng(seed), np.arange(n) % k
    points_np = np.eye(6)[kind_n] * apart + rng.standard_normal((n, 6))
    return (points_np / points_np.std()).astype(np.float32), kind_n


def folds(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(FOLDS, size=n)


def divided(points_np: np.ndarray, seed: int = 0, **batches) -> np.ndarray:
    return divide(points_np, lambda k: 100.0, seed, **batches).category_n


# The test of two groups


def test_two_separated_groups_are_two_types():
    points_np, kind_n = clusters(2)
    found = separation(points_np, kind_n == 1, folds(len(kind_n)))
    assert found.p_value < 1e-3
    assert found.deviations > 5


@pytest.mark.parametrize("shape", ["normal", "uniform", "exponential"])
def test_halves_of_one_cloud_are_seldom_two_types(shape):
    p_values = []
    for seed in range(200):
        points_np = getattr(np.random.default_rng(seed), shape)(size=(150, 5))
        upper_n = KMeans(2, n_init=1, random_state=seed).fit_predict(points_np) == 1
        p_values.append(separation_p_value(points_np, upper_n, folds(150, seed)))
    assert np.mean(np.array(p_values) < 0.05) <= 0.08  # 0.05 and two standard errors of a share of 200
    assert min(p_values) > 1e-3


def test_groups_that_no_batch_has_together_are_not_told_apart():
    points_np, kind_n = clusters(2)
    fold_n = folds(len(kind_n))
    assert separation_p_value(points_np, kind_n == 1, fold_n, kind_n) == 1
    assert separation_p_value(points_np, kind_n == 1, fold_n, np.arange(len(kind_n)) // 2 % 2) < 1e-3


def test_too_few_cells_are_not_a_type():
    points_np, _ = clusters(2)
    upper_n = np.arange(len(points_np)) < FEWEST - 1
    assert separation_p_value(points_np, upper_n, folds(len(points_np))) == 1


# Division


@pytest.mark.parametrize("k", [1, 4])
def test_division_finds_the_number_of_clusters(k):
    points_np, kind_n = clusters(k)
    found_n = divided(points_np)
    assert found_n.max() + 1 == k
    assert adjusted_rand_score(kind_n, found_n) > 0.98


def test_the_same_seed_gives_the_same_division_and_the_order_of_cells_does_not_matter():
    points_np, _ = clusters(4)
    order = np.random.default_rng(5).permutation(len(points_np))
    found_n = divided(points_np)
    np.testing.assert_array_equal(divided(points_np), found_n)
    assert adjusted_rand_score(found_n[order], divided(points_np[order])) > 0.98


def test_clusters_that_are_batches_are_not_divided():
    points_np, kind_n = clusters(2)
    assert divided(points_np, batch_n=kind_n).max() == 0


# Training


def marked_cells(n: int = 300, genes: int = 300) -> anndata.AnnData:
    """Counts of three types with 60 markers each."""
    rng, kind_n = np.random.default_rng(0), np.arange(n) % 3
    rate_ng = np.where(np.arange(genes)[None] // 60 == kind_n[:, None], 8.0, 2.0)
    return anndata.AnnData(rng.poisson(rate_ng).astype(np.float32))


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["cplmix", *map(str, words)])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


SMALL = ("--preset", "cells", "--engine", "local", "--max-steps", 4, "--batch-size", 32)


@pytest.mark.parametrize("repeated", [(), ("--n-categories", "auto")])
def test_training_finds_the_number_keeps_it_and_resumes(monkeypatch, tmp_path, repeated):
    cells, out = tmp_path / "cells.h5ad", tmp_path / "run"
    marked_cells().write_h5ad(cells)
    assert run(monkeypatch, "train", "--data", cells, "--out", out, "--n-categories", "auto", *SMALL) == 0
    kept = yaml.safe_load((out / "config.yaml").read_text())
    assert kept["model"]["n_categories"] == 3
    resumed = ("train", "--data", cells, "--out", out, "--resume", "--max-steps", 6, *repeated)
    assert run(monkeypatch, *resumed) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["model"]["n_categories"] == 3
    predicted = ("predict", "--run", out, "--data", cells, "--out", tmp_path / "predicted.h5ad")
    assert run(monkeypatch, *predicted) == 0


def test_images_have_no_number_to_find(monkeypatch, tmp_path, capsys):
    words = ("train", "--data", "digits", "--out", tmp_path / "run", "--n-categories", "auto", "--preset", "mnist")
    assert run(monkeypatch, *words) == 2
    assert "prune" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
