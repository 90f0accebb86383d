"""The test of pairs of neighbouring categories."""

import anndata
import numpy as np
import pandas as pd
import pytest
from refusals import naming

from cplmix_ray import CplMixVAE
from cplmix_ray.analysis.splits import cells_of_column, split_table
from cplmix_ray.cli.splits_command import splits
from cplmix_ray.data.io.h5ad import source_from_anndata
from cplmix_ray.utils.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")


@pytest.fixture(scope="module")
def adata():
    """600 cells in 40 genes, three types of 200, of which the second has a continuous state that divides it in "cut";
    two batches with an effect on all genes."""
    rng = np.random.default_rng(0)
    types, state, batch = np.repeat([0, 1, 2], 200), rng.normal(size=600), rng.integers(0, 2, 600)
    rates = rng.gamma(2.0, 1.0, (3, 40)) * np.where(rng.random((3, 40)) < 0.3, 5.0, 1.0)
    follow, effect = np.where(np.arange(40) < 10, 0.4, 0.0), rng.normal(0, 0.5, 40)
    counts = rng.poisson(4 * rates[types] * np.exp(np.outer(state, follow) + np.outer(batch, effect)))
    cut = np.array(["a", "b", "c"])[types].astype(object)
    cut[(types == 1) & (state > 0)] = "b2"
    obs = pd.DataFrame({"type": [f"t{t}" for t in types], "cut": cut, "batch": [f"lane{b}" for b in batch]})
    obs.index = obs.index.astype(str)
    obs["partly"] = obs["type"].where(obs.index != "0", None)
    return anndata.AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(40)]))


def table_of(adata, key, batch_key=None):
    source = source_from_anndata(adata)
    return split_table(cells_of_column(source, key, batch_key)[0], source.name, 0)


def verdicts(table) -> dict[frozenset, str]:
    pairs = zip(table["category_1"], table["category_2"], strict=True)
    return dict(zip(map(frozenset, pairs), table["verdict"], strict=True))


@pytest.mark.parametrize("batch_key", [None, "batch"])
def test_types_are_separate_and_a_state_is_not(adata, batch_key):
    found = verdicts(table_of(adata, "cut", batch_key))
    assert found.pop(frozenset({"b", "b2"})) == "not separated"
    assert found and set(found.values()) == {"separate"}


def test_batches_are_not_types(adata):
    assert set(verdicts(table_of(adata[adata.obs["type"] == "t0"].copy(), "batch")).values()) == {"separate"}
    cells = adata[adata.obs["type"] == "t0"].copy()
    cells.obs["lane"] = cells.obs["batch"]
    assert set(verdicts(table_of(cells, "lane", "batch")).values()) == {"not separated"}


def test_the_p_values_are_adjusted_for_all_pairs_and_the_doubtful_come_first(adata):
    table = table_of(adata, "cut")
    assert (table["p_adjusted"] >= table["p_value"]).all() and table["p_value"].is_monotonic_decreasing
    assert table["deviations"].iloc[0] < table["deviations"].iloc[1:].min()
    smallest = table["p_value"].min()
    assert table["p_adjusted"].min() == pytest.approx(min(1, smallest * len(table)))


def test_pieces_of_one_type_are_not_separate_whatever_lies_between_them():
    rng = np.random.default_rng(1)
    state = rng.normal(size=900)
    counts = rng.poisson(20 * np.exp(np.outer(state, rng.normal(0, 0.5, 30)))).astype(np.float32)
    piece = pd.Categorical(np.digitize(state, [-0.8, 0, 0.8]).astype(str))
    cells = anndata.AnnData(counts, obs=pd.DataFrame({"piece": piece}, index=[f"c{i}" for i in range(900)]))
    found = verdicts(table_of(cells, "piece"))
    assert frozenset({"0", "3"}) not in found
    assert set(found.values()) == {"not separated"}


def test_cells_without_a_category_are_left_out(adata):
    table = table_of(adata, "partly")
    assert set(table["category_1"]) | set(table["category_2"]) == {"t0", "t1", "t2"}
    assert set(table["n_1"]) | set(table["n_2"]) == {199, 200}


def test_what_cannot_be_tested_is_named(adata):
    with pytest.raises(InputError, match=naming("'leiden'", "type")):
        table_of(adata, "leiden")
    one = adata.copy()
    one.obs["type"] = "t0"
    with pytest.raises(InputError, match=naming("1 categor", "two")):
        table_of(one, "type")
    with pytest.raises(InputError, match=naming("--run", "--data", "--key")):
        splits(["--data", "cells.h5ad"])


def test_the_command_tests_a_run_a_column_and_cells_on_disk(adata, tmp_path, capsys):
    CplMixVAE.setup_anndata(adata, batch_key="batch")
    small = {"hidden": (16,), "bottleneck": 6, "batch_size": 32, "engine": "local", "threads": 1, "n_neighbours": 5}
    model = CplMixVAE(adata, n_categories=3, hvg="all", **small)
    model.train(max_steps=40, progress=False)
    model.save(tmp_path / "run")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    words = ["--run", str(tmp_path / "run"), "--data", str(tmp_path / "cells.h5ad")]
    splits(words)
    path = tmp_path / "run" / "splits.csv"
    assert capsys.readouterr().out.splitlines()[-1] == f"Results are in {path}."
    assert set(pd.read_csv(path)["verdict"]) == {"separate"}
    written = pd.read_csv(path, dtype={"category_1": str, "category_2": str})
    pd.testing.assert_frame_equal(written, model.split_table(), check_dtype=False, rtol=1e-4)
    for backed in ("no", "yes"):
        splits([*words, "--key", "cut", "--backed", backed, "--out", str(tmp_path / f"{backed}.csv")])
    assert "b2" in capsys.readouterr().out
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / f"{backed}.csv") for backed in ("no", "yes")))
