"""The laws of the simulated cells: trees, abundances, programmes, counts, states."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import spearmanr

from cplmix_ray.benchmarks.runs import simulated_file
from cplmix_ray.cli.simulate_command import simulate as simulate_command
from cplmix_ray.simulation.batches import draw_batches, missing_types
from cplmix_ray.simulation.expression import (
    abundances,
    along_state,
    expected_counts,
    sample_counts,
    state_effects,
    type_programmes,
)
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.simulation.simulate import draw_truth, gene_names, simulate, subclass_names
from cplmix_ray.simulation.tree import Tree, random_tree, read_tree
from cplmix_ray.utils.errors import InputError

SMALL = Simulation(types=6, cells=600, genes=80, abundance_ratio=8, seed=3)
IN_BATCHES = SMALL.model_copy(update={"batches": 3, "batch_missing": 2})
LINES = """label,parent,height,col
root,NA,1.0,red
inner,root,0.6,red
Sst A,low,0,red
low,inner,0.2,red
Sst B,low,0,red
Vip,inner,0,red
Oligo,root,0,red
"""


def tree_file(folder: Path, text: str = LINES) -> str:
    (folder / "tree.csv").write_text(text)
    return str(folder / "tree.csv")


def sums(values: sp.csr_matrix, axis: int) -> np.ndarray:
    return np.asarray(values.sum(axis=axis)).ravel()


def share_of_nonzero(mean_ng: np.ndarray, dispersion: float, dropout: float) -> float:
    """Expected share of values above zero: mean of (1 - (1 + phi mu)^(-1/phi)) mu / (mu + m)."""
    detected_ng = -np.expm1(-np.log1p(dispersion * mean_ng) / dispersion)
    return float(np.mean(detected_ng * mean_ng / (mean_ng + dropout)))


def distances(tree: Tree) -> np.ndarray:
    """Path length between every two leaves, as a share of the root's height; in the order of ``leaves``."""
    lengths, leaves = tree.lengths, tree.leaves
    under = np.zeros((len(tree.labels), len(leaves)), bool)
    under[leaves, np.arange(len(leaves))] = True
    for node in range(len(tree.labels) - 1, 0, -1):
        under[tree.parents[node]] |= under[node]
    apart = under[:, :, None] != under[:, None, :]
    return np.tensordot(lengths, apart, axes=1)


# Trees


def test_a_tree_is_read_with_parents_before_children(tmp_path):
    tree = read_tree(tree_file(tmp_path))
    assert tree.labels[0] == "root"
    assert all(parent < node for node, parent in enumerate(tree.parents))
    assert [tree.labels[leaf] for leaf in tree.leaves] == ["Sst A", "Sst B", "Vip", "Oligo"]
    at = {name: i for i, name in enumerate(tree.labels)}
    assert tree.lengths[at["inner"]] == pytest.approx(0.4)
    assert tree.lengths[at["Vip"]] == pytest.approx(0.6)
    # Twice the height at which two leaves part.
    expected = 2 * np.array([[0, 0.2, 0.6, 1], [0.2, 0, 0.6, 1], [0.6, 0.6, 0, 1], [1, 1, 1, 0]])
    np.testing.assert_allclose(distances(tree), expected)


@pytest.mark.parametrize(
    ("n", "left"),
    [
        (4, ["Sst A", "Sst B", "Vip", "Oligo"]),
        (3, ["Sst A", "Sst B", "Vip"]),  # the branch of three, not the whole tree cut into three
        (2, ["Sst A", "Sst B"]),
    ],
)
def test_a_larger_tree_gives_a_branch_of_the_wanted_size(tmp_path, n, left):
    tree = read_tree(tree_file(tmp_path)).reduced(n)
    assert [tree.labels[leaf] for leaf in tree.leaves] == left


def test_where_no_branch_has_the_size_the_closest_leaves_are_merged():
    tree = Tree(
        ("root", "left", "a", "b", "right", "c", "d"),
        np.array([-1, 0, 1, 1, 0, 4, 4]),
        np.array([1, 0.3, 0, 0, 0.5, 0, 0]),
    )
    small = tree.reduced(3)
    assert [small.labels[leaf] for leaf in small.leaves] == ["left", "c", "d"]
    with pytest.raises(InputError, match=r"\b4\b.*--types 5"):
        tree.reduced(5)


@pytest.mark.parametrize("n", [2, 3, 30, 115])
def test_a_random_tree_has_its_leaves_at_the_ground_and_never_rises(n):
    tree = random_tree(n, np.random.default_rng(n))
    assert len(tree.leaves) == n
    assert len(tree.labels) == 2 * n - 1
    assert (tree.heights[tree.leaves] == 0).all()
    assert tree.lengths.min() >= 0
    assert tree.heights.argmax() == 0
    off = ~np.eye(n, dtype=bool)
    assert (distances(tree)[off] > 0).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("label,parent\nroot,NA\n", "height"),
        ("", "CSV"),
        (LINES.replace("root,NA", "root,inner"), r"\b0\b.*\bparent"),
        (LINES.replace("Vip,inner", "Vip,NA"), r"\b2\b.*\bparent"),
        (LINES.replace("Vip,inner", "Vip,nowhere"), "'nowhere'.*'Vip'"),
        (LINES.replace("Vip,inner", "Sst A,inner"), "'Sst A'"),
        (LINES.replace("0.6", "high"), "height.*'inner'"),
        (LINES.replace("0.6", "0.1"), "height.*'low'"),
        (LINES.replace("inner,root", "inner,low"), "'(inner|low)'"),
        ("label,parent,height\nroot,NA,1\nleaf,root,0\n", "leaves"),
    ],
)
def test_a_bad_tree_is_one_sentence(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read_tree(tree_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_tree_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv.*--tree"):
        read_tree(str(tmp_path / "none.csv"))


def test_subclasses_are_branches_named_by_the_words_their_types_share(tmp_path):
    tree = read_tree(tree_file(tmp_path))
    assert subclass_names(tree, 3) == ["Sst", "Sst", "Vip", "Oligo"]
    assert len(set(subclass_names(tree, 1))) == 1
    assert len(set(subclass_names(tree, 4))) == 4


# Abundances


def test_the_default_abundances_are_those_of_the_cortex():
    default = Simulation()
    n_t = abundances(default.cells, default.types, default.abundance_ratio, default.abundance_bend)
    assert n_t.sum() == 22365
    assert abs(n_t.max() - 1404) <= 2
    assert abs(n_t.min() - 16) <= 1
    assert (np.diff(n_t) <= 0).all()


@pytest.mark.parametrize(("cells", "types", "ratio"), [(1000, 10, 1), (1003, 10, 1), (5000, 7, 20), (90, 30, 2)])
def test_abundances_add_up_and_have_the_ratio(cells, types, ratio):
    n_t = abundances(cells, types, ratio, 1.0)
    assert n_t.sum() == cells
    assert n_t.max() / n_t.min() == pytest.approx(ratio, rel=1.1 / n_t.min() + 1e-9)


def test_too_few_cells_for_the_rarest_type_are_refused():
    with pytest.raises(InputError, match=r"\b50\b.*\b40\b.*--cells.*--abundance-ratio"):
        abundances(50, 40, 100, 1.0)


# Programmes


def test_distances_in_expression_follow_those_in_the_tree():
    """Squared distances have expectation changes x sd^2 x (length of the way) x (number of markers)."""
    tree = random_tree(12, np.random.default_rng(1))
    fold_tg, marker_g = type_programmes(tree, 40_000, 0.5, 0.5, 1.2, np.random.default_rng(2))
    assert marker_g.sum() == 20_000
    assert (fold_tg[:, ~marker_g] == 0).all()
    pairs = np.triu_indices(12, 1)
    squared = ((fold_tg[pairs[0]] - fold_tg[pairs[1]]) ** 2).sum(axis=1)
    way = distances(tree)[pairs]
    assert np.corrcoef(squared, way)[0, 1] > 0.99
    far = way > 1
    np.testing.assert_allclose(squared[far], 20_000 * 0.5 * 1.2**2 * way[far], rtol=0.2)


def test_every_type_has_state_genes_of_its_own_among_those_it_expresses():
    log_rate_tg = np.random.default_rng(0).normal(size=(5, 200))
    effect_dtg = state_effects(log_rate_tg, 2, 0.05, 0.8, np.random.default_rng(1))
    assert effect_dtg.shape == (2, 5, 200)
    assert ((effect_dtg != 0).sum(axis=2) == 10).all()
    assert not (effect_dtg[0] * effect_dtg[1]).any()  # no gene follows both dimensions
    for t in range(5):
        assert log_rate_tg[t][effect_dtg[0, t] != 0].min() >= np.median(log_rate_tg[t])
    assert len({tuple(np.flatnonzero(effect_tg)) for effect_tg in effect_dtg[0]}) == 5


def test_the_sigmoid_levels_off_and_keeps_the_order():
    state = np.linspace(-4, 4, 101)[:, None]
    bent = along_state(state, "sigmoid")
    assert (np.diff(bent[:, 0]) > 0).all()
    assert abs(bent).max() < 1.5
    np.testing.assert_array_equal(along_state(state, "linear"), state)


# Counts


@pytest.mark.parametrize("mean", [0.2, 3.0, 200.0])
@pytest.mark.parametrize("dispersion", [0.1, 0.8])
def test_counts_are_negative_binomial(mean, dispersion):
    counts = sample_counts(np.full((400, 500), mean), dispersion, 0.0, np.random.default_rng(0))
    variance = mean + dispersion * mean**2
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / counts.size))
    assert counts.var() == pytest.approx(variance, rel=0.05)
    zero = (1 + dispersion * mean) ** (-1 / dispersion)
    assert np.mean(counts == 0) == pytest.approx(zero, abs=0.005)


def test_values_drop_out_at_the_set_rate():
    mean_ng = np.tile(np.geomspace(0.1, 100, 50), (4000, 1))
    kept = sample_counts(mean_ng, 0.5, 6.0, np.random.default_rng(1))
    assert np.mean(kept > 0) == pytest.approx(share_of_nonzero(mean_ng, 0.5, 6.0), abs=0.005)
    np.testing.assert_allclose(kept.mean(0), mean_ng[0] ** 2 / (mean_ng[0] + 6.0), rtol=0.1, atol=0.01)
    without = sample_counts(mean_ng, 0.5, 0.0, np.random.default_rng(1))
    assert np.mean(without > 0) == pytest.approx(share_of_nonzero(mean_ng, 0.5, 0.0), abs=0.005)


def test_a_cells_counts_are_shared_out_among_its_genes():
    log_rate = np.random.default_rng(0).normal(size=(3, 7)) + 800  # exp of it is infinite
    mean_ng = expected_counts(log_rate, np.array([10.0, 200.0, 5.0]))
    np.testing.assert_allclose(mean_ng.sum(1), [10, 200, 5])
    np.testing.assert_allclose(np.log(mean_ng[0] / mean_ng[0, 0]), log_rate[0] - log_rate[0, 0])


# Whole simulations


def test_library_sizes_are_lognormal_about_the_set_median():
    truth = draw_truth(SMALL.model_copy(update={"cells": 4000, "library": 900.0, "library_sd": 0.5}))
    logs = np.log(truth.library_n)
    assert logs.mean() == pytest.approx(np.log(900), abs=0.04)
    assert logs.std() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("technology", "low", "high"), [("smartseq", 0.4, 0.65), ("10x", 0.05, 0.15)])
def test_as_many_values_are_above_zero_as_the_technology_finds(technology, low, high):
    settings = SMALL.model_copy(update={"technology": technology, "genes": 800})
    adata, truth = simulate(settings), draw_truth(settings)
    share = adata.X.nnz / np.prod(adata.shape)
    assert low < share < high
    mean_ng = truth.mean_of(slice(0, settings.cells), settings.state_shape)
    own = settings.of_technology("dispersion"), settings.of_technology("dropout")
    assert share == pytest.approx(share_of_nonzero(mean_ng, *own), abs=0.01)


def test_without_dropout_cells_hold_the_counts_they_are_expected_to():
    settings = SMALL.model_copy(update={"dropout": 0.0, "genes": 2000, "dispersion": 0.05, "expression_sd": 0.5})
    adata = simulate(settings)
    np.testing.assert_allclose(sums(adata.X, 1), adata.obs["expected_counts"], rtol=0.15)


def test_the_object_tells_the_truth_and_where_it_comes_from():
    adata = simulate(SMALL)
    assert adata.shape == (600, 80)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.int32
    assert adata.X.data.min() > 0
    n_t = adata.obs["cell_type"].value_counts()
    assert len(n_t) == 6
    assert n_t.max() / n_t.min() == pytest.approx(8, rel=0.05)
    per_type = adata.obs.groupby("cell_type", observed=True)["subclass"].nunique()
    assert (per_type == 1).all()
    assert adata.varm["log_rate"].shape == adata.varm["state_effect"].shape == (80, 6)
    np.testing.assert_array_equal(adata.var["state_gene"], (adata.varm["state_effect"] != 0).any(axis=1))
    assert list(adata.uns["simulation"]["types"]) == list(adata.obs["cell_type"].cat.categories)
    assert adata.uns["simulation"]["seed"] == 3
    # Cells do not stand in the order of their types.
    assert adata.obs["cell_type"].iloc[:50].nunique() > 2


@pytest.mark.parametrize("shape", ["linear", "sigmoid"])
def test_state_genes_follow_the_state_inside_their_type_and_not_elsewhere(shape):
    settings = Simulation(
        types=3,
        cells=3000,
        genes=200,
        abundance_ratio=1,
        state_dims=2,
        state_strength=1.0,
        state_shape=shape,
        dropout=0.0,
    )
    adata = simulate(settings)
    values = adata.X.toarray() / sums(adata.X, 1)[:, None]
    types = list(adata.uns["simulation"]["types"])
    for name in ("state", "state_1"):
        inside, outside = [], []
        for at in range(len(types)):
            effect_g = adata.varm[f"{name}_effect"][:, at]
            for gene in np.flatnonzero(np.abs(effect_g) > 0.5):
                for t, other in enumerate(types):
                    if t != at and adata.varm[f"{name}_effect"][gene, t] != 0:
                        continue
                    cells = (adata.obs["cell_type"] == other).to_numpy()
                    rho = spearmanr(values[cells, gene], adata.obs[name][cells]).statistic
                    (inside if t == at else outside).append(rho * np.sign(effect_g[gene]))
        assert np.median(inside) > 0.4
        assert min(inside) > 0.15
        assert abs(np.mean(outside)) < 0.05
        assert np.max(np.abs(outside)) < 0.2


def test_states_are_standard_normal_and_tell_nothing_of_the_type():
    truth = draw_truth(SMALL.model_copy(update={"cells": 6000, "state_dims": 2}))
    assert truth.state_nd.mean(axis=0) == pytest.approx([0, 0], abs=0.05)
    assert truth.state_nd.std(axis=0) == pytest.approx([1, 1], abs=0.05)
    assert abs(np.corrcoef(truth.state_nd.T)[0, 1]) < 0.05
    means = [truth.state_nd[truth.type_n == t].mean() for t in range(6)]
    assert np.abs(means).max() < 0.2


def test_no_state_is_allowed():
    adata = simulate(SMALL.model_copy(update={"state_dims": 0}))
    assert "state" not in adata.obs
    assert not adata.var["state_gene"].any()


def test_the_seed_and_nothing_else_decides():
    one, again, other = simulate(SMALL), simulate(SMALL), simulate(SMALL.model_copy(update={"seed": 4}))
    assert (one.X != again.X).nnz == 0
    assert one.obs.equals(again.obs)
    assert (one.X != other.X).nnz > 0.6 * np.prod(one.shape)  # 0.77 to 0.83 for three other seeds
    # More cells are other cells of the same types.
    more = draw_truth(SMALL.model_copy(update={"cells": 900}))
    np.testing.assert_array_equal(more.log_rate_tg, draw_truth(SMALL).log_rate_tg)


def test_cells_of_one_type_differ_in_their_state():
    adata = simulate(Simulation(types=1, cells=400, genes=200, state_strength=2.0, seed=2))
    assert adata.obs["cell_type"].nunique() == 1 and adata.obs["state"].nunique() == 400
    logged = np.log1p(adata.X.toarray())
    rho_g = np.abs(np.corrcoef(logged.T, adata.obs["state"])[-1, :-1])
    assert np.nanmax(rho_g) > 0.4


def test_types_are_neither_given_away_nor_hidden():
    """A supervised classifier on half of the cells tells nearly all others; clustering does not."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    from cplmix_ray.metrics.category_scores import hungarian_accuracy

    adata = simulate(Simulation(types=12, cells=3000, genes=600, seed=1))
    logged = np.log1p(adata.X.toarray() * (1e4 / sums(adata.X, 1))[:, None])
    types = adata.obs["cell_type"].to_numpy().astype(str)
    points = PCA(20, random_state=0).fit_transform(logged)
    found = KMeans(12, n_init=1, random_state=0).fit_predict(points)
    assert 0.25 < hungarian_accuracy(types, found) < 0.8
    supervised = LogisticRegression(C=0.01, max_iter=300).fit(logged[::2], types[::2])
    assert supervised.score(logged[1::2], types[1::2]) > 0.85


# Batches


def test_one_batch_is_no_batch():
    plain, one = simulate(SMALL), simulate(SMALL.model_copy(update={"batch_strength": 2.0}))
    assert (plain.X != one.X).nnz == 0
    assert "batch" not in one.obs
    assert one.uns["simulation"]["settings"] == plain.uns["simulation"]["settings"]
    names = {str(simulated_file(s, Path())) for s in (SMALL, SMALL.model_copy(update={"batch_strength": 2.0}))}
    assert len(names | {str(simulated_file(IN_BATCHES, Path()))}) == 2


def test_without_strength_cells_are_those_of_one_batch():
    plain, weak = simulate(SMALL), simulate(IN_BATCHES.model_copy(update={"batch_strength": 0.0}))
    assert (plain.X != weak.X).nnz == 0
    assert weak.obs.drop(columns="batch").equals(plain.obs)
    assert not weak.varm["batch_effect"].any() and not weak.uns["simulation"]["batch_log_depth"].any()
    strong = simulate(IN_BATCHES)
    assert (plain.X != strong.X).nnz > 0
    same = ["cell_type", "subclass", "batch", "state"]
    assert strong.obs[same].equals(weak.obs[same])
    np.testing.assert_array_equal(strong.varm["log_rate"], plain.varm["log_rate"])


def test_batches_lack_their_types_and_share_the_others_evenly():
    adata = simulate(IN_BATCHES)
    cells_tb = pd.crosstab(adata.obs["cell_type"], adata.obs["batch"], dropna=False).to_numpy()
    lacks_tb = adata.uns["simulation"]["batch_lacks_type"].T
    assert (lacks_tb.sum(axis=0) == 2).all()
    np.testing.assert_array_equal(cells_tb == 0, lacks_tb)
    for cells_b, lacks_b in zip(cells_tb, lacks_tb, strict=True):
        assert np.ptp(cells_b[~lacks_b]) <= 1
    np.testing.assert_array_equal(cells_tb.sum(axis=1), np.bincount(draw_truth(SMALL).type_n))
    # The batch tells nothing of the state.
    assert adata.obs.groupby("batch", observed=True)["state"].mean().abs().max() < 0.25


@pytest.mark.parametrize(
    ("n_batches", "n_types", "n_missing", "n_sets"),
    [(3, 10, 2, 3), (3, 10, 5, 3), (6, 4, 2, 6), (3, 3, 2, 3), (5, 3, 1, 3), (2, 7, 3, 2), (4, 5, 0, 1)],
)
def test_every_batch_lacks_other_types_and_no_type_is_missing_everywhere(n_batches, n_types, n_missing, n_sets):
    for seed in range(20):
        lacks_bt = missing_types(n_batches, n_types, n_missing, np.random.default_rng(seed))
        assert (lacks_bt.sum(axis=1) == n_missing).all()
        assert np.ptp(lacks_bt.sum(axis=0)) <= 1 and not lacks_bt.all(axis=0).any()
        assert len(np.unique(lacks_bt, axis=0)) == n_sets


def test_effects_have_the_set_variance_and_are_more_alike_in_similar_types():
    """Covariance between types is strength^2 (1 - by_type x (length of the way) / 2), as all leaves are at height 0."""
    settings = Simulation(types=8, cells=800, abundance_ratio=1, batches=3, batch_strength=0.6, batch_by_type=0.4)
    tree = random_tree(8, np.random.default_rng(1))
    batches = draw_batches(settings, tree, np.arange(800) % 8, 40_000, lambda part: np.random.default_rng([5, part]))
    assert batches.effect_btg.shape == (3, 8, 40_000)
    for effect_tg, shared_g in zip(batches.effect_btg, batches.shared_bg, strict=True):
        np.testing.assert_allclose(np.cov(effect_tg), 0.36 * (1 - 0.2 * distances(tree)), atol=0.01)
        assert shared_g.var() == pytest.approx(0.36 * 0.6, abs=0.005)
        assert (effect_tg - shared_g).mean(axis=1) == pytest.approx(0, abs=0.02)
    assert np.abs(np.corrcoef(batches.effect_btg[:, 0]) - np.eye(3)).max() < 0.02


def test_expression_differs_between_batches_by_the_true_effects():
    changes = {"types": 3, "cells": 3000, "genes": 300, "dropout": 0.0, "abundance_ratio": 1, "batch_missing": 0}
    adata = simulate(IN_BATCHES.model_copy(update={**changes, "batch_by_type": 0.3}))
    shares = adata.X.toarray() / sums(adata.X, 1)[:, None]

    def log_mean(batch: str, *types: str) -> np.ndarray:
        return np.log(shares[(adata.obs["batch"] == batch) & adata.obs["cell_type"].isin(types)].mean(axis=0))

    types = list(adata.uns["simulation"]["types"])
    for other in ("batch_2", "batch_3"):
        for at, name in enumerate(types):
            found_g = log_mean(other, name) - log_mean("batch_1", name)
            true_g = adata.varm[f"{other}_effect"][:, at] - adata.varm["batch_1_effect"][:, at]
            assert np.corrcoef(found_g, true_g)[0, 1] > 0.95
            assert np.polyfit(true_g, found_g, 1)[0] == pytest.approx(1, abs=0.05)
        # In all types together it is the common part.
        common_g = np.subtract(*adata.varm["batch_effect"][:, [int(other[-1]) - 1, 0]].T)
        assert np.corrcoef(log_mean(other, *types) - log_mean("batch_1", *types), common_g)[0, 1] > 0.85


def test_batches_differ_in_depth_by_what_is_recorded():
    plain, adata = simulate(SMALL), simulate(IN_BATCHES.model_copy(update={"batch_depth_sd": 0.7}))
    ratio_n = np.log(adata.obs["expected_counts"] / plain.obs["expected_counts"])
    recorded_b = adata.uns["simulation"]["batch_log_depth"]
    np.testing.assert_allclose(ratio_n, recorded_b[adata.obs["batch"].cat.codes], atol=1e-5)
    many = simulate(SMALL.model_copy(update={"batches": 60, "batch_depth_sd": 0.7}))
    assert many.uns["simulation"]["batch_log_depth"].std() == pytest.approx(0.7, abs=0.2)
    level = simulate(IN_BATCHES.model_copy(update={"batch_depth_sd": 0.0}))
    assert level.obs["expected_counts"].equals(plain.obs["expected_counts"])


# Names and the command


def test_genes_are_named_by_the_list(tmp_path):
    (tmp_path / "genes.csv").write_text("genes\n" + "\n".join(f"G{i}" for i in range(20)))
    assert gene_names(str(tmp_path / "genes.csv"), 12) == [f"G{i}" for i in range(12)]
    assert len(gene_names(str(tmp_path / "genes.csv"), None)) == 20
    with pytest.raises(InputError, match=r"\b20 genes.*--genes 30"):
        gene_names(str(tmp_path / "genes.csv"), 30)
    assert len(gene_names(None, None)) == 5032


def test_the_command_writes_a_file_that_is_read_again(tmp_path, capsys):
    out = tmp_path / "new" / "sim.h5ad"
    words = ["--types", "4", "--cells", "200", "--genes", "40", "--abundance-ratio", "3", "--seed", "7"]
    simulate_command(["--out", str(out), *words, "--tree", tree_file(tmp_path)])
    said = capsys.readouterr().out.strip().splitlines()
    assert str(out) in said[-1]
    assert re.search(r"\b200 cells x 40 genes\b.*\b4 types\b", said[-2])
    read = anndata.read_h5ad(out)
    expected = simulate(Simulation(types=4, cells=200, genes=40, abundance_ratio=3, seed=7, tree=tree_file(tmp_path)))
    assert (read.X != expected.X).nnz == 0
    assert set(read.obs["cell_type"].cat.categories) == {"Sst A", "Sst B", "Vip", "Oligo"}
    assert [path.name for path in out.parent.iterdir()] == ["sim.h5ad"]


def test_the_command_writes_batches_and_their_true_effects(tmp_path, capsys):
    words = ["--types", "4", "--cells", "200", "--genes", "40", "--abundance-ratio", "3", "--batches", "3"]
    simulate_command(["--out", str(tmp_path / "sim.h5ad"), *words, "--batch-missing", "1"])
    said = capsys.readouterr().out
    assert "3 batches" in said and "obs['batch']" in said
    read = anndata.read_h5ad(tmp_path / "sim.h5ad")
    assert list(read.obs["batch"].cat.categories) == ["batch_1", "batch_2", "batch_3"]
    assert read.varm["batch_effect"].shape == (40, 3)
    assert read.varm["batch_3_effect"].shape == (40, 4)
    assert read.uns["simulation"]["batch_lacks_type"].shape == (3, 4)
    assert "batch_missing: 1" in read.uns["simulation"]["settings"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--types", "0"], "types"),
        (["--technology", "nanopore"], "technology"),
        (["--tree", "nowhere.csv"], "nowhere.csv"),
        (["--gene-names", "nowhere.csv"], "nowhere.csv"),
        (["--cells", "20", "--types", "19"], r"\b20\b.*\b19\b.*--cells"),
        (["--batches", "0"], "batches"),
        (["--batch-missing", "1"], r"batch_missing.*\b1\b.*\bbatches\b"),
        (["--types", "5", "--batches", "3", "--batch-missing", "6"], r"batch_missing.*\b6 of 5\b.*at most 3\b"),
        (["--types", "5", "--batches", "3", "--batch-missing", "4"], r"batch_missing.*\b4 of 5\b.*at most 3\b"),
        (["--types", "2", "--cells", "200", "--batches", "300"], r"\b200 cells\b.*\b300 batches\b.*--cells"),
    ],
)
def test_a_line_that_cannot_be_used_is_one_sentence(tmp_path, words, named):
    with pytest.raises(InputError, match=named) as caught:
        simulate_command(["--out", str(tmp_path / "sim.h5ad"), *words])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
