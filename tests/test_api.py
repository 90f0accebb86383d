"""CplMixVAE in Python: set up, train, ask, save, load."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from refusals import naming

from cplmix_ray import CplMixVAE
from cplmix_ray.config import preset_names
from cplmix_ray.utils.errors import InputError

SMALL = {"hidden": (16,), "bottleneck": 6, "batch_size": 32, "engine": "local", "threads": 1, "n_neighbours": 5}


@pytest.fixture(scope="module")
def adata():
    """120 cells of three planted types in 40 genes; counts in a layer, nothing of use in X."""
    rng = np.random.default_rng(0)
    types = np.repeat([0, 1, 2], 40)
    rates = rng.gamma(2.0, 1.0, (3, 40)) * np.where(rng.random((3, 40)) < 0.3, 6.0, 1.0)
    cells = anndata.AnnData(
        X=np.zeros((120, 40), np.float32),
        obs=pd.DataFrame({"type": pd.Categorical([f"t{t}" for t in types])}, index=[f"c{i}" for i in range(120)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(40)]),
        layers={"counts": sp.csr_matrix(rng.poisson(rates[types]).astype(np.float32))},
    )
    CplMixVAE.setup_anndata(cells, layer="counts", labels_key="type")
    return cells


@pytest.fixture(scope="module")
def model(adata):
    model = CplMixVAE(adata, n_categories=3, n_arms=2, lr=3e-3, **SMALL)
    model.train(max_steps=150)
    return model


def test_training_finds_the_planted_types(model):
    assert model.metrics["acc"] > 0.8
    assert model.metrics["steps"] == 150


def test_answers_have_the_shapes_and_names_of_the_cells(adata, model):
    assigned = model.get_assignments()
    assert list(assigned.index) == list(adata.obs_names)
    assert list(assigned.cat.categories) == ["0", "1", "2"]
    probabilities = model.get_probabilities()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(1), assigned.astype(int))
    assert model.get_latent_representation().shape == (120, 2)


def test_a_loaded_model_gives_the_same_answers(tmp_path, adata, model):
    model.save(tmp_path / "saved")
    loaded = CplMixVAE.load(tmp_path / "saved", adata)
    np.testing.assert_array_equal(loaded.get_probabilities(), model.get_probabilities())
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    with pytest.raises(InputError, match=naming(tmp_path / "saved")):
        model.save(tmp_path / "saved")


def test_other_cells_are_matched_by_gene_name(adata, model):
    some = adata[10:30, ::-1].copy()
    np.testing.assert_allclose(model.get_probabilities(some), model.get_probabilities()[10:30], rtol=1e-4, atol=1e-6)


def test_loading_for_other_genes_is_refused(tmp_path, adata, model):
    model.save(tmp_path / "saved")
    with pytest.raises(InputError, match=naming(10, 40, "'g0'")):
        CplMixVAE.load(tmp_path / "saved", adata[:, 10:].copy())


def test_a_misspelt_setting_is_named(adata):
    with pytest.raises(InputError, match="'learning_rate'"):
        CplMixVAE(adata, learning_rate=1e-3)
    with pytest.raises(InputError, match=r"model\.n_arms"):
        CplMixVAE(adata, n_arms=0)


def test_nothing_can_be_asked_before_training(adata):
    with pytest.raises(InputError, match=r"train\(\)"):
        CplMixVAE(adata).get_assignments()


def test_counts_train_with_the_count_likelihoods(adata):
    for likelihood in ("nb", "zinb"):
        model = CplMixVAE(adata, n_categories=3, likelihood=likelihood, lr=3e-3, **SMALL)
        assert model.train(max_steps=150)["acc"] > 0.6, likelihood


def test_a_preset_is_where_the_settings_start(adata):
    model = CplMixVAE(adata, n_categories=3, preset="cells", seed=1, align_steps=30, **SMALL)
    assert (model.config.objective.coupling, model.config.model.n_arms) == ("agreement", 2)
    assert model.config.model.n_categories == 3
    assert model.train(max_steps=60)["acc"] > 0.8
    assert CplMixVAE(adata, preset="cells", n_arms=3).config.model.n_arms == 3
    with pytest.raises(InputError, match=naming("'cell'", *preset_names())):
        CplMixVAE(adata, preset="cell")
