"""Columns of obs as columns of the decoder's input."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cplmix_ray.cli.train_command import train
from cplmix_ray.data.batch_columns import columns_like_batches
from cplmix_ray.data.covariates import (
    UNKNOWN,
    batches_of,
    design_matrix,
    encode_covariates,
    fit_covariates,
    level_names,
    width_of,
)
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.utils.errors import InputError

ALL = np.arange(12)


@pytest.fixture
def obs() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "batch": pd.Categorical(["b", "a", "a", "c"] * 3, categories=["c", "b", "a", "unused"]),
            "age": np.arange(12),
            "treated": [True, False] * 6,
        }
    )


def test_columns_have_mean_zero_over_the_training_cells_and_known_values(obs):
    train_idx = np.array([0, 1, 2, 3, 4, 5])
    covariates, notes = fit_covariates(obs, "batch", ("age", "treated", "batch"), train_idx, "cells")
    assert [each.name for each in covariates] == ["batch", "age", "treated"] and len(notes) == 3
    assert covariates[0].levels == ("a", "b", "c")
    assert width_of(covariates) == 6
    values, unknown = encode_covariates(obs, covariates, "cells")
    assert unknown == ()
    design_nv = design_matrix(covariates, values, slice(None))
    assert design_nv.dtype == np.float32
    np.testing.assert_allclose(design_nv[train_idx].mean(axis=0), 0, atol=1e-6)
    # Shares of a, b, c among the six cells are 3/6, 2/6, 1/6; ages 0 to 5 have mean 5/2 and variance 35/12.
    np.testing.assert_allclose(design_nv[0, :3], [-1 / 2, 2 / 3, -1 / 6], rtol=1e-6)
    np.testing.assert_allclose(design_nv[:, 3], (np.arange(12) - 2.5) / np.sqrt(35 / 12), rtol=1e-6)
    np.testing.assert_allclose(design_nv[:2, 4:], [[-0.5, 0.5], [0.5, -0.5]])


def test_unknown_levels_and_missing_columns_are_zeros_and_are_named(obs):
    covariates, _ = fit_covariates(obs, "batch", ("age",), ALL, "cells")
    values, (note,) = encode_covariates(obs.assign(batch=["z"] + ["a"] * 11), covariates, "new.h5ad")
    assert values["batch"].tolist() == [UNKNOWN] + [0] * 11
    assert np.all(design_matrix(covariates, values, slice(None))[0, :3] == 0)
    assert "'batch'" in note and "z" in note and "new.h5ad" in note
    values, notes = encode_covariates(obs[["treated"]], covariates, "new.h5ad")
    assert np.all(design_matrix(covariates, values, slice(None)) == 0)
    assert ["'batch'" in notes[0], "'age'" in notes[1]] == [True, True]


def test_levels_do_not_depend_on_how_they_are_stored(obs):
    numbers = pd.Series([10, 2, 2, 10])
    forms = [numbers, numbers.astype(float), numbers.astype(str), numbers.astype("category"), numbers.astype("Int64")]
    forms += [numbers.astype(np.float32), numbers.astype(float).astype("category")]
    for form in forms:
        assert list(level_names(form)) == ["10", "2", "2", "10"]
    assert list(level_names(pd.Series([0.5, 1.0]))) == ["0.5", "1"]
    assert list(level_names(pd.Series([True, False]))) == ["True", "False"]
    covariates, _ = fit_covariates(pd.DataFrame({"batch": numbers}), "batch", (), np.arange(4), "cells")
    for form in forms:
        assert encode_covariates(pd.DataFrame({"batch": form}), covariates, "new")[0]["batch"].tolist() == [0, 1, 1, 0]


def test_a_column_with_one_value_has_no_effect_and_a_note(obs):
    covariates, notes = fit_covariates(obs.assign(batch="a", age=3.0), "batch", ("age",), ALL, "cells")
    assert covariates == ()
    assert ["--batch-key batch" in notes[0], "--covariates age" in notes[1]] == [True, True]
    assert batches_of(obs.assign(batch="a"), "batch") is None
    assert batches_of(obs, None) is None and batches_of(obs, "donor") is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"batch": ["a", None] * 6}, "2 cells|6 cells"),
        ({"batch": [f"cell {i}" for i in range(12)]}, "12 different values"),
        ({"age": [np.inf] + [1.0] * 11}, "infinite"),
        ({"age": [1e300, -1e300] * 6}, "infinite"),
        ({"age": [np.nan] + [1.0] * 11}, "1 cells"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(obs, change, word):
    with pytest.raises(InputError, match=word) as refused:
        fit_covariates(obs.assign(**change), "batch", ("age",), ALL, "cells.h5ad")
    assert f"'{next(iter(change))}'" in str(refused.value) and "cells.h5ad" in str(refused.value)


def test_values_that_training_did_not_see_are_checked_too(obs):
    """Among the validation cells, and in other files."""
    with pytest.raises(InputError, match="infinite"):
        fit_covariates(obs.assign(age=[1.0] * 6 + [2.0] * 5 + [np.inf]), None, ("age",), ALL[:8], "cells")
    covariates, _ = fit_covariates(obs, None, ("age",), ALL, "cells")
    for change, word in (([-np.inf] * 12, "infinite"), (["old"] * 12, "numbers"), ([np.nan] * 12, "12 cells")):
        with pytest.raises(InputError, match=word):
            encode_covariates(obs.assign(age=change), covariates, "new")


def test_a_missing_column_is_refused_and_those_there_are_named(obs):
    for key, others, option in (("donor", (), "--batch-key"), (None, ("donor",), "--covariates")):
        with pytest.raises(InputError, match=rf"'donor'.*{option}.*batch, age, treated"):
            fit_covariates(obs, key, others, ALL, "cells")


def test_covariates_are_kept_with_the_preparation(obs):
    covariates, _ = fit_covariates(obs, "batch", ("age",), ALL, "cells")
    kept = Preparation("log", ("g1", "g2"), covariates=covariates)
    tree = json.loads(json.dumps(kept.as_dict()))
    assert Preparation.from_dict(tree) == kept
    older = {name: value for name, value in tree.items() if name != "covariates"}
    assert Preparation.from_dict(older).covariates == ()
    for damage in ({"sd": 0.0}, {"shares": [1.0]}, {"mean": "x"}, {"levels": None}):
        with pytest.raises(ValueError, match=r"none|could have been made"):
            Preparation.from_dict({**tree, "covariates": [{**tree["covariates"][0], **damage}]})


def test_columns_like_batches_are_found_by_name_and_values():
    n = 400
    two, many, few = np.arange(n) % 2, np.arange(n), (np.arange(n) == 0).astype(int)
    obs = pd.DataFrame(
        {
            **{"Batch": two, "donor_id": two, "orig.ident": two, "seqTech": two.astype(float), "stim": two == 1},
            **{"cell_type": two, "leiden": two, "sample_cluster": two, "sex": two, "n_genes": many},
            **{
                "patient": many,
                "plate": few,
                "condition": ["x", None] * (n // 2),
                "study": "one",
                "library_size": many,
            },
        }
    )
    found = dict(columns_like_batches(obs, ("donor_id",), slice(None)))
    assert set(found) == {"Batch", "orig.ident", "seqTech", "stim"}
    assert list(found["seqTech"].categories) == ["0", "1"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (["--batch-key", "type", "--labels-key", "type"], "known types must not enter the model"),
        (["--covariates", "type", "--labels-key", "type"], "known types must not enter the model"),
        (["--family", "vaegan", "--batch-key", "batch"], "augmenter has no use for covariates"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(tmp_path, line, word):
    obs = pd.DataFrame({"batch": ["a", "b"] * 10, "type": ["x"] * 10 + ["y"] * 10}, index=[f"c{i}" for i in range(20)])
    ad.AnnData(np.random.default_rng(0).poisson(3.0, (20, 8)).astype(np.float32), obs=obs).write_h5ad(
        tmp_path / "c.h5ad"
    )
    given = [
        "--data",
        str(tmp_path / "c.h5ad"),
        "--out",
        str(tmp_path / "run"),
        "--engine",
        "local",
        "--max-steps",
        "1",
    ]
    with pytest.raises(InputError, match=word):
        train([*given, "--n-categories", "2", *line] if "vaegan" not in line else [*given, *line])
