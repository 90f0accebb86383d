"""Expected expression with covariates changed, and differential expression between conditions."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from refusals import naming
from scipy import stats
from statsmodels.stats.multitest import multipletests

from cplmix_ray import CplMixVAE
from cplmix_ray.cli.de_command import de
from cplmix_ray.data.anndata_setup import AnnDataSetup
from cplmix_ray.utils.errors import ArgumentTypeError, InputError

pytestmark = pytest.mark.filterwarnings("ignore::cplmix_ray.CplMixWarning")
SMALL = {"hidden": (16,), "bottleneck": 6, "batch_size": 32, "engine": "local", "threads": 1, "n_neighbours": 5}


@pytest.fixture(scope="module")
def adata():
    """240 cells of two types in 30 genes, two conditions with an effect on gene 0, and three donors."""
    rng = np.random.default_rng(0)
    types, stim, donor = np.repeat([0, 1], 120), np.tile([0, 1], 120), rng.integers(0, 3, 240)
    rates = rng.gamma(2.0, 1.0, (2, 30)) * np.where(rng.random((2, 30)) < 0.3, 6.0, 1.0)
    counts = rng.poisson(rates[types] * np.where(np.arange(30) == 0, 1 + 7 * stim[:, None], 1.0))
    counts[:, 29] = 0
    obs = {
        "type": pd.Categorical([f"t{t}" for t in types]),
        "condition": pd.Categorical(np.array(["ctrl", "stim"])[stim]),
        "donor": donor,
        "age": rng.normal(50, 10, 240),
    }
    cells = anndata.AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(240)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(30)]),
    )
    CplMixVAE.setup_anndata(cells, batch_key="condition", continuous_covariate_keys=["age"])
    return cells


@pytest.fixture(scope="module")
def model(adata):
    model = CplMixVAE(adata, n_categories=2, hvg="all", **SMALL)
    model.train(max_steps=40, progress=False)
    return model


def test_columns_of_the_setup_become_settings(adata, model):
    assert (model.config.input.batch_key, model.config.input.covariates) == ("condition", ("age",))


def test_the_setup_survives_a_file_and_a_model_needs_none(adata, model, tmp_path):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert AnnDataSetup.of(again) == AnnDataSetup.of(adata)
    assert AnnDataSetup.of(again).covariates == ("age",)
    again.uns.clear()
    model.save(tmp_path / "saved")
    loaded = CplMixVAE.load(tmp_path / "saved", again)
    given = {"transform_batch": "stim", "return_numpy": True}
    np.testing.assert_array_equal(
        loaded.get_normalized_expression(**given), model.get_normalized_expression(again, **given)
    )
    loaded.train(max_steps=1, progress=False)
    assert (loaded.config.input.batch_key, loaded.config.input.covariates) == ("condition", ("age",))


def test_another_condition_shifts_a_cell_by_exactly_its_effect(adata, model):
    linear = model._trained.model.network.linear
    with torch.no_grad():
        effects_kvg = linear.effects(0).numpy()
    probs_nk = model.get_probabilities()
    own, stim, ctrl = (model.get_normalized_expression(transform_batch=b) for b in (None, "stim", "ctrl"))
    assert effects_kvg.shape[1] == 3  # two conditions, and the age
    expected_ng = probs_nk @ (effects_kvg[:, 1] - effects_kvg[:, 0])
    np.testing.assert_allclose(stim - ctrl, expected_ng, atol=1e-4)
    is_stim = (adata.obs["condition"] == "stim").to_numpy()
    np.testing.assert_array_equal(own[is_stim], stim[is_stim])
    np.testing.assert_array_equal(own[~is_stim], ctrl[~is_stim])
    assert (stim - ctrl)["g0"].min() > 0.5


def test_values_of_any_covariate_several_batches_and_some_cells(adata, model):
    age = adata.obs["age"].iloc[3]
    own = model.get_normalized_expression(indices=[3], transform_covariates={"age": age})
    assert list(own.index) == ["c3"]
    pd.testing.assert_frame_equal(own, model.get_normalized_expression(indices=[3]), atol=1e-5)
    mask = np.arange(240) < 5
    both = [model.get_normalized_expression(indices=mask, transform_batch=each) for each in ("stim", "ctrl")]
    mean = model.get_normalized_expression(indices=mask, transform_batch=["stim", "ctrl"], gene_list=["g2", "g0"])
    np.testing.assert_allclose(mean, ((both[0] + both[1]) / 2)[["g2", "g0"]], atol=1e-5)


def test_counts_are_expected_at_the_median_library_size(adata):
    model = CplMixVAE(adata, n_categories=2, likelihood="nb", preset="published", **SMALL)
    model.train(max_steps=2, progress=False)
    x_ng = model.get_normalized_expression(transform_batch="stim", return_numpy=True)
    assert (x_ng >= 0).all()
    np.testing.assert_allclose(x_ng.sum(1), model._trained.preparations["main"].library, rtol=1e-4)
    table = model.differential_expression("condition", "stim", "ctrl", within="type")
    assert np.isfinite(table["model_log2_fold_change"]).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"transform_batch": "heat"}, ("'heat'", "ctrl", "stim")),
        ({"transform_batch": []}, ("condition",)),
        ({"transform_covariates": {"donor": 1}}, ("donor", "condition", "age")),
        ({"transform_covariates": {"age": "old"}}, ("age", "old")),
        ({"gene_list": ["g0", "MX1"]}, ("MX1", "30")),
        ({"indices": [240]}, ("240",)),
    ],
)
def test_unknown_values_are_named(model, given, words):
    with pytest.raises(InputError, match=naming(*words)):
        model.get_normalized_expression(**given)


def test_without_a_batch_there_is_nothing_to_transform(adata):
    plain = adata.copy()
    CplMixVAE.setup_anndata(plain)
    model = CplMixVAE(plain, n_categories=2, **SMALL)
    model.train(max_steps=2, progress=False)
    with pytest.raises(InputError, match="batch_key="):
        model.get_normalized_expression(transform_batch="stim")
    assert model.get_normalized_expression().shape == (240, 30)
    assert "model_log2_fold_change" not in model.differential_expression("condition", "stim", "ctrl", within="type")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_key": "lane"}, ("'lane'", "batch_key=")),
        ({"categorical_covariate_keys": ["donor"]}, ("'donor'", "astype")),
        ({"continuous_covariate_keys": ["type"]}, ("'type'", "categorical_covariate_keys=")),
        ({"categorical_covariate_keys": [3]}, ("categorical_covariate_keys", "3")),
    ],
)
def test_columns_are_checked_when_they_are_given(adata, given, words):
    with pytest.raises(InputError, match=naming(*words)):
        CplMixVAE.setup_anndata(adata.copy(), **given)


def test_covariates_are_no_settings(adata):
    with pytest.raises(ArgumentTypeError, match="categorical_covariate_keys"):
        CplMixVAE(adata, covariates=("age",))


# Differential expression


def logs(adata) -> np.ndarray:
    return np.log1p(adata.X / adata.X.sum(1, keepdims=True) * 1e4)


def test_cells_are_compared_as_scipy_and_statsmodels_do(adata, model):
    table = model.differential_expression("condition", "stim", "ctrl", within="type")
    assert list(table.groupby("category").size()) == [30, 30]
    assert list(table.groupby("category")["gene"].first()) == ["g0", "g0"]
    x_ng, of_n = logs(adata), (adata.obs["type"] == "t1").to_numpy()
    stim = (adata.obs["condition"] == "stim").to_numpy()
    one = table[table["category"] == "t1"].set_index("gene").loc[list(adata.var_names)]
    expected = stats.mannwhitneyu(x_ng[of_n & stim, :29], x_ng[of_n & ~stim, :29], method="asymptotic").pvalue
    np.testing.assert_allclose(one["p_value"].iloc[:29], expected, rtol=1e-4)
    np.testing.assert_allclose(one["p_adjusted"].iloc[:29], multipletests(expected, method="fdr_bh")[1], rtol=1e-4)
    assert np.isnan(one["p_value"]["g29"]) and np.isnan(one["p_adjusted"]["g29"])  # zero in all cells
    change = (x_ng[of_n & stim].mean(0) - x_ng[of_n & ~stim].mean(0)) / np.log(2)
    np.testing.assert_allclose(one["log2_fold_change"], change, atol=1e-5)
    assert (one["n_1"] == (of_n & stim).sum()).all()


def test_the_model_has_an_effect_of_its_own(model):
    table = model.differential_expression("condition", "stim", "ctrl")
    first = table[table["gene"] == "g0"]
    assert (first["model_log2_fold_change"] > 0.5).all()
    np.testing.assert_allclose(first["model_log2_fold_change"], first["log2_fold_change"], atol=0.7)
    swapped = model.differential_expression("condition", "ctrl", "stim")
    keys = ["category", "gene"]
    np.testing.assert_allclose(
        swapped.set_index(keys)["model_log2_fold_change"],
        -table.set_index(keys).loc[swapped.set_index(keys).index]["model_log2_fold_change"],
        atol=1e-5,
    )


def test_samples_are_compared_by_their_sums(adata, model):
    with pytest.warns(UserWarning, match="3 and 3 samples"):
        table = model.differential_expression("condition", "stim", "ctrl", within="type", sample_key="donor")
    assert set(table["samples_1"]) == set(table["samples_2"]) == {3}
    obs, cpm = adata.obs, {}
    for condition in ("stim", "ctrl"):
        sums = [
            adata.X[((obs["type"] == "t0") & (obs["condition"] == condition) & (obs["donor"] == d)).to_numpy()].sum(0)
            for d in range(3)
        ]
        cpm[condition] = np.array([np.log1p(1e6 * each / each.sum()) for each in sums])
    one = table[table["category"] == "t0"].set_index("gene")
    change = (cpm["stim"].mean(0) - cpm["ctrl"].mean(0)) / np.log(2)
    np.testing.assert_allclose(one["bulk_log2_fold_change"][list(adata.var_names)], change, atol=1e-4)
    assert one["bulk_p_value"]["g0"] == pytest.approx(0.1)


def test_log_expression_gives_the_same_table_up_to_the_base(adata, model):
    cells = adata.copy()
    cells.X = (logs(adata) / np.log(2)).astype(np.float32)
    CplMixVAE.setup_anndata(cells, batch_key="condition")
    other = CplMixVAE(cells, n_categories=2, hvg="all", **SMALL)
    other.train(max_steps=2, progress=False)
    columns = ["log2_fold_change", "bulk_log2_fold_change", "p_value"]
    found, expected = (
        m.differential_expression("condition", "stim", "ctrl", within="type", sample_key="donor")
        .set_index(["category", "gene"])
        .sort_index()[columns]
        for m in (other, model)
    )
    np.testing.assert_allclose(found["log2_fold_change"], expected["log2_fold_change"], atol=1e-4)
    np.testing.assert_allclose(found["p_value"], expected["p_value"], rtol=0.05, atol=1e-3)


def test_groups_that_do_not_exist_or_are_too_small_are_named(adata, model):
    with pytest.raises(InputError, match=naming("'heat'", "ctrl", "stim")):
        model.differential_expression("condition", "heat", "ctrl")
    with pytest.raises(InputError, match="'lane'"):
        model.differential_expression("lane", "a", "b")
    few = adata[[*range(120), *range(120, 130)]].copy()
    with pytest.warns(UserWarning, match="'t1' is not tested"):
        table = model.differential_expression("condition", "stim", "ctrl", adata=few, within="type")
    assert set(table["category"]) == {"t0"}


def test_the_command_writes_the_same_table(adata, model, tmp_path, capsys):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    model.save(tmp_path / "run")
    given = {"run": tmp_path / "run", "data": tmp_path / "cells.h5ad", "groupby": "condition", "within": "type"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    de([*words, "--group1", "stim", "--group2", "ctrl"])
    path = tmp_path / "run" / "differential_expression.csv"
    assert capsys.readouterr().out.splitlines()[-1] == f"Results are in {path}."
    expected = model.differential_expression("condition", "stim", "ctrl", within="type")
    pd.testing.assert_frame_equal(pd.read_csv(path), expected, check_dtype=False, rtol=1e-4)
