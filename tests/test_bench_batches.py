"""Benchmarks of cells in batches: which cells and batches a run receives, and how mixed batches are said to be."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from cplmix_ray.benchmarks.baselines import find_clusters
from cplmix_ray.benchmarks.embeddings import components, harmony
from cplmix_ray.benchmarks.entries import Baseline, Entry, load_entries
from cplmix_ray.benchmarks.execute import RunOptions, execute, load_cells
from cplmix_ray.benchmarks.results import COLUMNS, append_row, read_rows
from cplmix_ray.benchmarks.runs import BenchmarkRun, expand_entries
from cplmix_ray.data.splits import take_cells
from cplmix_ray.metrics.category_scores import label_scores
from cplmix_ray.metrics.integration import integration_scores, joint_coordinates
from cplmix_ray.metrics.registry import METRICS
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.threads import torch_threads

HOME = Path(__file__).parent
SMALL = {
    "model.hidden": [12],
    "model.bottleneck": 4,
    "training.max_steps": 4,
    "training.batch_size": 32,
    "placement.threads": 1,
}
OF_COORDINATES = {"ilisi", "clisi", "kbet", "bras", "graph_connectivity"}


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """A folder with 180 cells of three types in two batches that differ more than the types do."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    type_n, batch_n = np.repeat([0, 1, 2], 60), np.tile([0, 1], 90)
    log_rate_ng = 0.5 * rng.standard_normal((3, 60))[type_n] + 0.6 * rng.standard_normal((2, 60))[batch_n]
    obs = pd.DataFrame(
        {"kind": np.array(["a", "b", "c"])[type_n], "lane": np.array(["x", "y"])[batch_n], "site": "here"},
        index=[f"cell{i}" for i in range(180)],
    )
    adata = anndata.AnnData(rng.poisson(4 * np.exp(log_rate_ng)).astype(np.float32), obs=obs)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def job(cells: Path, **entry) -> BenchmarkRun:
    whole = {"name": "x", "data": "cells.h5ad", "labels_key": "kind", "seeds": [0], "baseline": {"pcs": 10}, **entry}
    (only,) = expand_entries([Entry.model_validate(whole)], HOME, cells)
    return only


def test_a_recipe_receives_the_batch_of_its_cells_unless_it_says_otherwise(tmp_path):
    sets = [{"name": "s", "data": "cells.h5ad", "labels_key": "kind", "batch_key": "lane", "part": "choose"}]
    recipes = [
        {"name": "with", "method": "kmeans", "seeds": [0]},
        {"name": "without", "method": "kmeans", "seeds": [0], "set": {"input.batch_key": None}},
        {"name": "both", "method": "kmeans", "seeds": [0], "over": {"input.batch_key": [None, "site"]}},
    ]
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump({"cell_sets": sets, "recipes": recipes}))
    runs = expand_entries(load_entries(tmp_path / "bench.yaml"), tmp_path)
    assert [run.config.input.batch_key for run in runs] == ["lane", None, None, "site"]
    assert [run.entry.batch_key for run in runs] == ["lane"] * 4
    assert runs[0].hash != runs[1].hash


def test_cells_that_match_all_columns_are_left_out(cells):
    whole, part = job(cells), job(cells, leave_out_cells={"lane": ["x"], "kind": ["a", "b"]})
    obs = load_cells(part).adata.obs
    table = pd.crosstab(obs["kind"], obs["lane"])
    assert table.to_numpy().tolist() == [[0, 30], [0, 30], [30, 30]]
    assert len(load_cells(part).labels_n) == load_cells(part).matrix.n_cells == 120
    assert part.hash != whole.hash and "leave_out_cells" in part.settings
    assert "leave_out_cells" not in whole.settings


@pytest.mark.parametrize(
    ("left_out", "words"),
    [
        ({"lain": ["x"]}, "no column 'lain'.*leave_out_cells"),
        ({"lane": ["x"], "kind": ["d"]}, "No cells of .*lane x and kind d"),
        ({"lane": ["x", "y"]}, "All cells of .*lane x, y"),
    ],
)
def test_cells_that_cannot_be_left_out_are_one_sentence(cells, left_out, words):
    with pytest.raises(InputError, match=words):
        load_cells(job(cells, leave_out_cells=left_out))


def test_harmony_finds_the_types_that_batches_hide(cells):
    run = job(cells, method="harmony_kmeans", batch_key="lane")
    source, settings = load_cells(run), run.entry.baseline
    plain = find_clusters("kmeans", source, 3, run.config, settings)
    corrected = find_clusters("harmony_kmeans", source, 3, run.config, settings)
    assert label_scores(source.labels_n, plain.category_n)["acc"] < 0.8
    assert label_scores(source.labels_n, corrected.category_n)["acc"] > 0.95
    assert corrected.detail == "10 PCs, Harmony"
    again = harmony(source, run.config, settings).points_np
    assert (corrected.points_np == again).all(), "the same seed gives the same coordinates"
    without = run.config.with_settings(input={"batch_key": None})
    assert (plain.points_np == components(source, without, settings).points_np).all(), "k-means ignores the batch"


def test_harmony_takes_a_dozen_cells(cells):
    run = job(cells, method="harmony_kmeans", batch_key="lane")
    assert np.isfinite(harmony(take_cells(load_cells(run), np.arange(12)), run.config, Baseline(pcs=3)).points_np).all()


@pytest.mark.parametrize("method", ["harmony_kmeans", "harmony_leiden"])
@pytest.mark.parametrize("batch_key", [None, "site"])
def test_harmony_without_two_batches_is_refused(cells, method, batch_key, tmp_path):
    pytest.importorskip("igraph")
    with pytest.raises(InputError, match=r"two batches.*input\.batch_key") as caught:
        execute(job(cells, method=method, batch_key=batch_key), RunOptions(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_leiden_is_better_after_harmony_on_whose_coordinates_it_works(cells):
    pytest.importorskip("igraph")
    run = job(cells, method="harmony_leiden", batch_key="lane")
    source, settings = load_cells(run), run.entry.baseline
    acc = {}
    for method, embed in (("leiden", components), ("harmony_leiden", harmony)):
        with torch_threads(1):  # scanpy changes their number
            found = find_clusters(method, source, 3, run.config, settings)
        assert (found.points_np == embed(source, run.config, settings).points_np).all()
        acc[method] = label_scores(source.labels_n, found.category_n)["acc"]
    assert acc["harmony_leiden"] > acc["leiden"] + 0.1


def test_a_column_that_is_missing_is_named(cells, tmp_path):
    with pytest.raises(InputError, match="no column 'lain'"):
        execute(job(cells, method="kmeans", batch_key="lain"), RunOptions(tmp_path))


def test_rows_say_how_mixed_batches_are_whether_the_run_received_them_or_not(cells, tmp_path, monkeypatch):
    monkeypatch.setattr("cplmix_ray.benchmarks.execute.can_score_integration", lambda: False)
    corrected = execute(job(cells, method="harmony_kmeans", batch_key="lane"), RunOptions(tmp_path))
    without = {"input.batch_key": None}
    plain = execute(job(cells, method="kmeans", batch_key="lane", n_categories=2, set=without), RunOptions(tmp_path))
    assert corrected["batch_nmi"] < 0.05 and plain["batch_nmi"] > 0.9
    assert not OF_COORDINATES & {*corrected, *plain}, "without scib-metrics"
    assert "batch_nmi" not in execute(job(cells, method="kmeans"), RunOptions(tmp_path))
    assert "batch_nmi" not in execute(job(cells, method="kmeans", batch_key="site"), RunOptions(tmp_path))


def test_integration_is_scored_on_what_a_method_found(cells, tmp_path, monkeypatch):
    """Coordinates of every cell with its batch and type; methods that have none leave the columns blank."""
    seen = []
    monkeypatch.setattr("cplmix_ray.benchmarks.execute.can_score_integration", lambda: True)
    monkeypatch.setattr(
        "cplmix_ray.benchmarks.execute.integration_scores", lambda *args: seen.append(args) or {"ilisi": 0.5}
    )
    options = RunOptions(tmp_path)
    assert execute(job(cells, method="kmeans", batch_key="lane"), options)["ilisi"] == 0.5
    execute(job(cells, batch_key="lane", set={**SMALL, "model.state_dim": 2}, seeds=[7]), options)
    start = execute(job(cells, method="initial_clustering", preset="cells", batch_key="lane"), options)
    assert "ilisi" not in start and "batch_nmi" in start
    assert [(points.shape, seed) for points, _, _, seed in seen] == [((180, 10), 0), ((180, 3 + 2), 7)]
    for _, batch_n, labels_n, _ in seen:
        assert pd.crosstab(batch_n, labels_n).to_numpy().tolist() == [[30] * 3] * 2


def test_joint_coordinates_weigh_category_and_state_alike():
    rng = np.random.default_rng(0)
    category_n, state_nd = np.repeat([0, 1, 3], [50, 30, 1]), rng.normal(3.0, [0.1, 7.0], (81, 2))
    found = joint_coordinates(np.eye(4)[category_n], state_nd)
    assert found.shape == (81, 4 + 2) and np.isfinite(found).all()
    for k, cells_k in ((0, 50), (1, 30)):
        own = found[category_n == k]
        assert (own[:, :4] == np.eye(4)[k]).all()
        squares = np.square(own[:, None] - own[None]).sum(-1)
        assert squares.sum() / cells_k**2 == pytest.approx(2.0, rel=1e-4)


def test_files_without_the_columns_of_batches_are_read_and_continued(tmp_path):
    path, earlier = tmp_path / "rows.csv", [name for name in COLUMNS if name not in {"batch_nmi", *OF_COORDINATES}]
    append_row(path, {"name": "old", "detail": "a, b"}, earlier)
    append_row(path, {"name": "new", "detail": "c", "ilisi": 0.5})
    rows = read_rows(path)
    assert tuple(rows.columns) == COLUMNS
    assert rows[["name", "detail", "ilisi"]].to_numpy().tolist() == [["old", "a, b", ""], ["new", "c", ""]]


def test_scores_are_declared_and_a_missing_package_is_named(monkeypatch):
    assert {"batch_nmi", *OF_COORDINATES} <= METRICS.keys()
    monkeypatch.setattr("cplmix_ray.metrics.integration.can_score_integration", lambda: False)
    with pytest.raises(InputError, match=r"cplmix_ray\[integration\]"):
        integration_scores(np.zeros((3, 2)), np.array([0, 1, 0]))


@pytest.fixture(scope="module")
def cloud():
    """Three distant types, each in two batches that do not differ."""
    pytest.importorskip("scib_metrics")
    rng = np.random.default_rng(0)
    type_n, batch_n = rng.integers(3, size=400), rng.integers(2, size=400)
    points = rng.normal(size=(400, 6)) + 8 * np.eye(6)[type_n]
    return points, batch_n, np.array(["a", "b", "c"])[type_n]


def test_mixed_batches_score_high_and_separate_ones_low(cloud):
    points, batch_n, labels_n = cloud
    mixed = integration_scores(points, batch_n, labels_n)
    assert set(mixed) == OF_COORDINATES
    apart = integration_scores(points + 6 * np.eye(6)[3 + batch_n], batch_n, labels_n)
    for name, high, low in [("ilisi", 0.8, 0.2), ("kbet", 0.8, 0.1), ("bras", 0.9, 0.7)]:
        assert mixed[name] > high and apart[name] < low, name
    assert mixed["clisi"] > 0.99 and mixed["graph_connectivity"] > 0.95
    assert integration_scores(points, labels_n, batch_n.astype(str))["clisi"] < 0.3, "the types are mixed"


def test_what_cannot_be_computed_is_left_out(cloud):
    points, batch_n, labels_n = cloud
    assert set(integration_scores(points, batch_n)) == {"ilisi"}
    assert set(integration_scores(points, batch_n, np.full(400, "a"))) == {"ilisi", "kbet", "bras"}
    assert set(integration_scores(points, labels_n, labels_n)) == {"ilisi", "clisi", "graph_connectivity"}
    assert integration_scores(points, np.zeros(400), labels_n) == {}
    assert set(integration_scores(points[:20], batch_n[:20], labels_n[:20])) >= {"ilisi", "clisi"}


def test_cells_of_unknown_type_are_left_out_and_the_seed_draws_the_rest(cloud, monkeypatch):
    points, batch_n, labels_n = cloud
    some_n = np.where(np.arange(400) < 300, labels_n, "")
    known = integration_scores(points[:300], batch_n[:300], labels_n[:300])
    assert integration_scores(points, batch_n, some_n) == known
    monkeypatch.setattr("cplmix_ray.metrics.integration.MOST_CELLS", 200)
    first, again, other = (integration_scores(points, batch_n, labels_n, seed) for seed in (1, 1, 2))
    assert first == again != other
