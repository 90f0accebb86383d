"""Comparisons of recipes over cell sets: what is run, on which cells, and the ranking."""

import functools
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.cluster import AgglomerativeClustering
from sklearn.mixture import GaussianMixture

from cplmix_ray.benchmarks.baselines import find_clusters
from cplmix_ray.benchmarks.entries import Baseline, Entry, load_entries
from cplmix_ray.benchmarks.execute import RunOptions, categories_file, drop_rare_types, execute, load_cells
from cplmix_ray.benchmarks.recipes import rank_recipes, recipe_scores
from cplmix_ray.benchmarks.results import read_rows
from cplmix_ray.benchmarks.runs import expand_entries
from cplmix_ray.benchmarks.simulated import simulate_missing
from cplmix_ray.cli.bench_command import bench
from cplmix_ray.data.io.read import read_source
from cplmix_ray.data.neighbors.principal_components import principal_components
from cplmix_ray.data.preprocessing.fit import fit_preparation
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.simulation.simulate import simulate
from cplmix_ray.utils.errors import InputError, TrainingError

HOME = Path(__file__).parent
FEW = {"types": 3, "cells": 60, "genes": 40, "abundance_ratio": 1, "seed": 2}
SETS = [
    {"name": "file", "data": "cells.h5ad", "labels_key": "kind", "part": "choose"},
    {"name": "sim", "simulation": FEW, "labels_key": "cell_type", "part": "report"},
]
KMEANS = {"name": "kmeans", "method": "kmeans", "seeds": [0, 1], "baseline": {"pcs": 5, "restarts": 1}}
WARD = {"name": "ward", "method": "ward", "seeds": [0], "baseline": {"pcs": 5}}


@pytest.fixture(scope="module")
def cells(tmp_path_factory) -> Path:
    """A folder with 90 cells of three types."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    types = np.repeat(["a", "b", "c"], 30)
    rates = rng.gamma(1.0, 3.0, (3, 40))[np.repeat([0, 1, 2], 30)]
    obs = pd.DataFrame({"kind": types}, index=[f"cell{i}" for i in range(90)])
    adata = anndata.AnnData(rng.poisson(rates).astype(np.float32), obs=obs)
    adata.var_names = [f"gene{i}" for i in range(40)]
    adata.write_h5ad(folder / "cells.h5ad")
    return folder


def write_comparison(folder: Path, *recipes: dict, sets=SETS) -> Path:
    (folder / "bench.yaml").write_text(yaml.safe_dump({"cell_sets": list(sets), "recipes": list(recipes)}))
    return folder / "bench.yaml"


def job(cells: Path, **entry):
    (only,) = expand_entries(
        [Entry.model_validate({"name": "x", "data": "cells.h5ad", "labels_key": "kind", "seeds": [3], **entry})],
        HOME,
        cells,
    )
    return only


def test_every_recipe_is_run_on_every_set_that_it_can_take(tmp_path):
    path = write_comparison(tmp_path, KMEANS, {**WARD, "leave_out": ["sim"]})
    entries = load_entries(path)
    assert [(each.name, each.method, each.seeds, each.labels_key) for each in entries] == [
        ("file-kmeans", "kmeans", (0, 1), "kind"),
        ("file-ward", "ward", (0,), "kind"),
        ("sim-kmeans", "kmeans", (0, 1), "cell_type"),
    ]
    assert [each.name for each in load_entries(path, ("sim",))] == ["sim-kmeans"]
    assert [each.name for each in load_entries(path, ("ward", "sim-kmeans"))] == ["file-ward", "sim-kmeans"]
    with pytest.raises(InputError, match=r"no entry 'mouse'; it has file, kmeans, ward, sim\."):
        load_entries(path, ("mouse",))


@pytest.mark.parametrize(
    ("sets", "recipes", "words"),
    [
        ([{**SETS[0], "simulation": FEW}], [WARD], r"cell_sets\.0\.data: .*a file, or a simulation"),
        ([{**SETS[1], "simulation": {"typos": 3}}], [WARD], r"cell_sets\.0\.simulation\.typos"),
        ([{**SETS[1], "simulation": {"types": 3, "batch_missing": 1}}], [WARD], r"cell_sets\.0\.simulation.*batches"),
        ([{**SETS[0], "part": "neither"}], [WARD], r"cell_sets\.0\.part"),
        ([SETS[0], SETS[0]], [WARD], "more than one entry 'file-ward'"),
        (SETS, [{**WARD, "leave_out": ["mouse"]}], "'ward' leaves out 'mouse', which is no cell set"),
        (SETS, [], "recipes"),
    ],
)
def test_a_comparison_that_cannot_be_used_is_one_sentence(sets, recipes, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        load_entries(write_comparison(tmp_path, *recipes, sets=sets))
    assert "\n" not in str(caught.value)


def test_simulated_cells_are_made_once_and_are_those_of_simulate(cells, tmp_path):
    def run_of(**changes):
        simulation = {"name": "s", "simulation": {**FEW, **changes}, "labels_key": "cell_type"}
        entry = Entry.model_validate({**simulation, "method": "kmeans", "seeds": [0]})
        return expand_entries([entry], HOME, cells, simulated=tmp_path)[0]

    first, told = run_of(), []
    simulate_missing([first], cells, told.append)
    simulate_missing([first], cells, told.append)
    assert len(told) == 1 and len(list(tmp_path.iterdir())) == 1
    expected = simulate(Simulation.model_validate(FEW))
    source = load_cells(first)
    assert (source.matrix.block().toarray() == expected.X.toarray()).all()
    assert source.labels_n.tolist() == expected.obs["cell_type"].tolist()
    (cells / "tree.csv").write_text("label,parent,height\nroot,,1\nleft,root,0\nright,root,0\n")
    of_tree = run_of(tree="tree.csv", types=2)
    simulate_missing([of_tree], cells, told.append)
    assert set(load_cells(of_tree).labels_n) == {"left", "right"}, "the tree is looked for in the folder of the data"
    other = run_of(seed=4)
    assert other.key != first.key and other.data != first.data
    assert "simulation.seed=4" in other.settings
    in_batches = run_of(batches=2, batch_missing=1)
    simulate_missing([in_batches], cells, told.append)
    adata = anndata.read_h5ad(in_batches.config.input.data)
    assert adata.obs["batch"].nunique() == 2 and adata.uns["simulation"]["batch_lacks_type"].sum() == 2
    assert "simulation.batches=2" in in_batches.settings


def test_ward_and_mixtures_are_those_of_scikit_learn_on_the_same_components(cells):
    source = read_source(str(cells / "cells.h5ad"), None, "kind")
    this = job(cells, method="ward")
    points = principal_components(np.asarray(fit_preparation(source, this.config.input).matrix.block()), 6, 0)
    mixture = GaussianMixture(3, covariance_type="tied", n_init=2, random_state=3)
    for method, expected in [
        ("ward", AgglomerativeClustering(3, linkage="ward").fit_predict(points)),
        ("gaussian_mixture", mixture.fit_predict(points.astype(np.float64))),
    ]:
        found = find_clusters(method, source, 3, this.config, Baseline(pcs=6, restarts=2))
        assert found.category_n.tolist() == expected.tolist(), method
        assert found.detail.startswith("6 PCs")


def test_a_mixture_that_did_not_converge_says_so(cells, monkeypatch):
    monkeypatch.setattr("sklearn.mixture.GaussianMixture", functools.partial(GaussianMixture, max_iter=1))
    this = job(cells, method="gaussian_mixture")
    found = find_clusters("gaussian_mixture", load_cells(this), 8, this.config, Baseline())
    assert found.detail.endswith("1 iterations, not converged")


def test_the_initial_clustering_is_that_of_the_preset_for_all_cells(cells, tmp_path):
    this = job(cells, method="initial_clustering", preset="cells")
    config = this.config.with_settings(model={"n_categories": 3}, input={"val_fraction": 0.0})
    guess_n = build_dataset(load_cells(this), config).training.tables.guess[:, 0]
    figures = execute(this, RunOptions(tmp_path))
    with np.load(categories_file(tmp_path, this.key)) as file:
        assert file["category_n"].tolist() == guess_n.tolist()
    assert (figures["acc"], figures["populated"], figures["method"]) == (1.0, 3, "initial_clustering")
    with pytest.raises(InputError, match="no initial clustering"):
        execute(job(cells, method="initial_clustering", n_categories=3), RunOptions(tmp_path))


@pytest.mark.parametrize("method", ["kmeans", "ward", "gaussian_mixture", "initial_clustering"])
def test_more_categories_than_cells_are_refused(cells, tmp_path, method):
    with pytest.raises(InputError, match="90 cells, fewer than 100 categories"):
        execute(job(cells, method=method, n_categories=100, preset="cells"), RunOptions(tmp_path))


def test_ward_refuses_cells_whose_distances_do_not_fit_into_memory(cells, tmp_path, monkeypatch):
    class Little:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", Little)
    with pytest.raises(InputError, match="ward needs"):
        execute(job(cells, method="ward"), RunOptions(tmp_path))


@pytest.mark.slow
def test_leiden_says_when_no_resolution_gives_the_number_of_clusters(cells, tmp_path):
    """Leiden on a graph of three components finds at least three clusters, whatever the resolution."""
    pytest.importorskip("igraph")
    figures = execute(job(cells, method="leiden", n_categories=2, baseline={"neighbours": 5}), RunOptions(tmp_path))
    assert figures["populated"] == 3
    assert figures["detail"].endswith("3 clusters, never 2")


def test_rare_types_are_dropped_from_the_known_factors_too():
    source = read_source("dsprites", subset=3000)
    types, sizes = np.unique(source.labels_n, return_counts=True)
    kept = drop_rare_types(source, int(sizes.min()) + 1)
    keep_n = source.labels_n != types[sizes.argmin()]
    assert 0 < kept.n_cells == keep_n.sum() < source.n_cells
    assert (kept.factors.classes_nf == source.factors.classes_nf[keep_n]).all()


METHODS = {"ours": "cplmix"}


def scores_of(**recipes: list[float | None]) -> pd.DataFrame:
    """Scores on three sets, of which the last is for reports; ``ours`` is a recipe of cplmix."""
    rows = [
        {
            "part": part,
            "cell_set": name,
            "recipe": recipe,
            "method": "cplmix" if recipe == "ours" else "kmeans",
            "runs": 1,
        }
        | {"ari": ari, "acc": ari / 2}
        for at, (name, part) in enumerate([("a", "choose"), ("b", "choose"), ("c", "report")])
        for recipe, aris in recipes.items()
        if (ari := aris[at]) is not None
    ]
    return pd.DataFrame(rows)


def test_the_ranking_of_a_closed_case():
    scores = scores_of(
        ours=[0.9, 0.2, 0.5], x=[0.5, 0.6, 0.6], y=[0.4, 0.5, 0.1], z=[0.5, 0.3, 0.2], part=[None, 0.8, None]
    )
    found = rank_recipes(scores).set_index(["part", "recipe"])
    columns = ["sets", "mean_ari", "mean_acc", "mean_rank", "below_median", "minus_best"]
    # Of x, y and z, the medians are 0.5, 0.5 and 0.2, and x has the best mean.
    ours = [3, 1.6 / 3, 0.8 / 3, (1 + 4 + 2) / 3, 1, (1.6 - 1.7) / 3]
    assert found.loc[("all", "ours"), columns].tolist() == pytest.approx(ours)
    assert found.loc[("all", "x"), columns].tolist() == pytest.approx([3, 1.7 / 3, 0.85 / 3, 1.5, 0, 0])
    assert found.loc[("all", "y"), "below_median"] == 2
    assert found.loc[("all", "part"), ["sets", "minus_best"]].tolist() == pytest.approx([1, 0.2])
    assert np.isnan(found.loc[("all", "part"), "mean_rank"])
    assert found.loc["all"].index[-1] == "part", "a recipe without scores on all sets comes last"
    assert found.loc[("choose", "ours"), "mean_ari"] == pytest.approx(0.55)
    assert found.loc["report"].index.tolist() == ["x", "ours", "z", "y"]


def test_recipes_that_share_no_set_are_listed_without_a_comparison():
    found = rank_recipes(scores_of(x=[0.5, None, None], y=[None, 0.4, 0.2])).set_index(["part", "recipe"])
    assert found.loc["all", "mean_ari"].tolist() == pytest.approx([0.3, 0.5])
    assert found.loc["all", ["mean_rank", "minus_best"]].isna().all(axis=None)
    assert found.loc["all", "below_median"].tolist() == [0, 0]


def test_our_recipes_alone_are_compared_with_each_other():
    scores = scores_of(ours=[0.9, 0.2, 0.5], x=[0.5, 0.6, 0.6]).assign(method="cplmix")
    found = rank_recipes(scores).set_index(["part", "recipe"])
    assert found.loc[("all", "ours"), "minus_best"] == pytest.approx((1.6 - 1.7) / 3)


def test_the_line_simulates_runs_ranks_and_goes_on(cells, tmp_path, capsys):
    path = write_comparison(tmp_path, KMEANS, WARD)
    line = ["accuracy", str(path), "--data-dir", str(cells), "--out", str(tmp_path / "out")]
    bench([*line, "--only", "file"])
    assert "Simulating" not in capsys.readouterr().out
    bench(line)
    said = capsys.readouterr().out
    assert re.search(r"6 runs, 3 of them have a row", said)
    assert said.count("Simulating") == 1
    assert [f"cell sets: {part}" in said for part in ("all", "choose", "report")] == [True] * 3
    rows = read_rows(tmp_path / "out" / "rows.csv")
    scores = recipe_scores(
        rows, expand_entries(load_entries(path), tmp_path, cells, simulated=tmp_path / "out/simulated")
    )
    table = scores.set_index(["cell_set", "recipe"])
    mine = rows[rows["name"] == "file-kmeans"]
    assert table.loc[("file", "kmeans"), "ari"] == pytest.approx(mine["ari"].astype(float).mean())
    assert table["runs"].tolist() == [2, 1, 2, 1]
    ranking = pd.read_csv(tmp_path / "out" / "rows_ranking.csv")
    assert ranking["part"].tolist() == ["all", "all", "choose", "choose", "report", "report"]
    assert ranking["mean_ari"].tolist() == pytest.approx(rank_recipes(scores)["mean_ari"].tolist(), abs=1e-4)
    page = (tmp_path / "out" / "rows_ranking.md").read_text()
    assert "| recipe | file | sim |" in page and page.count("| kmeans |") == 4
    bench(line)
    assert len(read_rows(tmp_path / "out" / "rows.csv")) == 6


def test_settings_that_a_recipe_compares_are_recipes_of_their_own(cells, tmp_path):
    over = {
        "name": "pre",
        "method": "kmeans",
        "seeds": [0],
        "over": {"input.target_sum": [50.0, 100.0]},
        "baseline": {"pcs": 5},
    }
    path = write_comparison(tmp_path, over, sets=SETS[:1])
    bench(["accuracy", str(path), "--data-dir", str(cells), "--out", str(tmp_path)])
    ranking = pd.read_csv(tmp_path / "rows_ranking.csv")
    assert set(ranking["recipe"]) == {"pre input.target_sum=50.0", "pre input.target_sum=100.0"}


def test_a_recipe_that_fails_on_a_set_is_ranked_without_it(cells, tmp_path, capsys):
    sets = [SETS[0], {**SETS[0], "name": "many", "n_categories": 100}]
    path = write_comparison(tmp_path, WARD, sets=sets)
    with pytest.raises(TrainingError, match="1 of 2 runs failed"):
        bench(["accuracy", str(path), "--data-dir", str(cells), "--out", str(tmp_path)])
    assert pd.read_csv(tmp_path / "rows_ranking.csv")["sets"].tolist() == [1, 1]
