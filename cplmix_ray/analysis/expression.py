"""Expected expression of cells, with their own covariates or as if these had other values (counterfactuals).

The expected cell is what the decoder gives for the cell's posterior category and the mean of its state: for a linear
decoder mu_c + (B + B_c) v + W_c s. The noise of the cell is not part of it, so that the difference between two values
of a covariate is (B + B_c) (v' - v) exactly, and expected cells are smoother than measured ones.
"""

import itertools
from collections.abc import Mapping, Sequence

import anndata
import numpy as np
import pandas as pd
import torch

from cplmix_ray.data.covariates import UNKNOWN, Covariate, design_matrix
from cplmix_ray.data.training_set import PreparedCells
from cplmix_ray.evaluation.inference import BATCH
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.utils.errors import InputError

AsIf = Mapping[str, object]
"""Covariate -> the value that cells are decoded with in place of their own; of a list of values, the mean is taken."""


def expected_expression(model: TrainedModel, cells: PreparedCells, as_if: AsIf, genes: np.ndarray) -> np.ndarray:
    """Expected expression of cells, (n, genes) float32, from the decoder of the first arm, whose state is reported.

    The unit is that of the preparation: log-expression, or for count likelihoods the counts of a cell with the median
    library size of the training cells.

    Args:
        genes: indices into the genes that the model was trained on.

    Raises:
        InputError: the model was not trained with a covariate, or not with that value of it.
    """
    encoded = {name: _all_encoded(covariate_of(model, name), value) for name, value in as_if.items()}
    settings = [dict(zip(encoded, values, strict=True)) for values in itertools.product(*encoded.values())]
    latent = model.infer(cells, ["probs_nk", "state_nd"])
    c_nk, s_nd = latent["probs_nk"], latent["state_nd"]
    out_ng = np.zeros((len(c_nk), len(genes)), np.float32)
    for start in range(0, len(c_nk), BATCH):
        part = slice(start, start + BATCH)
        own = {name: values_n[part] for name, values_n in cells.covariates.items()}
        for setting in settings:
            given = {name: np.full(len(c_nk[part]), value) for name, value in setting.items()}
            v_nv = _columns(cells.preparation.covariates, own | given)
            out_ng[part] += decode(model, c_nk[part], s_nd[part], v_nv)[:, genes] / len(settings)
    return out_ng


def _columns(covariates: Sequence[Covariate], values: Mapping[str, np.ndarray]) -> np.ndarray | None:
    return design_matrix(covariates, values, slice(None)) if covariates else None


def decode(model: TrainedModel, c_nk: np.ndarray, s_nd: np.ndarray, v_nv: np.ndarray | None) -> np.ndarray:
    """Expected cells of the first arm, (n, g), for categories, states and columns of the covariates."""
    given = {"c": c_nk, "s": s_nd} | ({} if v_nv is None else {"v": v_nv})
    decoded_ang = model.model.decode(**{name: torch.from_numpy(each) for name, each in given.items()})
    found_ng: np.ndarray = decoded_ang[0].cpu().numpy()
    return found_ng


def covariate_of(model: TrainedModel, name: str) -> Covariate:
    """A covariate of a model by its name.

    Raises:
        InputError: the model was trained without it.
    """
    known = {covariate.name: covariate for each in model.preparations.values() for covariate in each.covariates}
    if name not in known:
        has = f"its covariates are {', '.join(known)}" if known else "it has no covariates"
        raise InputError(
            f"The model was trained without the covariate '{name}' ({has}); give it as --batch-key or in --covariates "
            f"and train again."
        )
    return known[name]


def batch_of(model: TrainedModel) -> str:
    """The column with the batch that a model was trained with.

    Raises:
        InputError: it was trained with none, or with one in which all cells had the same value.
    """
    key = getattr(model.config.input, "batch_key", None)
    if key is None:
        raise InputError("The model was trained without a batch; set --batch-key and train again.")
    return covariate_of(model, key).name


def genes_of(model: TrainedModel, wanted: Sequence[str] | None) -> tuple[np.ndarray, pd.Index]:
    """Indices and names of genes of a model; None for all.

    Raises:
        InputError: the model was not trained on one of them.
    """
    names = pd.Index(next(iter(model.preparations.values())).var_names)
    if wanted is None:
        return np.arange(len(names)), names
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    found = names.get_indexer(wanted)
    missing = [gene for gene, at in zip(wanted, found, strict=True) if at < 0]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"The model was not trained on {len(missing)} of the genes ({shown}); it has the {len(names):,} genes that "
            f"--hvg and --genes had selected."
        )
    return found, names[found]


def cells_at(adata: anndata.AnnData, indices: object) -> anndata.AnnData:
    """Some cells of an object, by positions or a mask.

    Raises:
        InputError: there are no such cells.
    """
    try:
        some = adata[np.asarray(indices)]
        if some.n_obs:
            return some
        problem = "it selects no cell"
    except (IndexError, KeyError, ValueError, TypeError) as error:
        problem = " ".join(str(error).split())
    raise InputError(f"indices= must give positions of cells, or a mask of {adata.n_obs:,} values ({problem}).")


def _all_encoded(covariate: Covariate, value: object) -> list[int | float]:
    several = list(value) if isinstance(value, list | tuple | set | np.ndarray | pd.Index | pd.Series) else [value]
    if not several:
        raise InputError(f"The list of values of '{covariate.name}' is empty; give at least one.")
    return [_encoded(covariate, each) for each in several]


def _encoded(covariate: Covariate, value: object) -> int | float:
    if covariate.levels:
        if str(value) not in covariate.levels:
            raise InputError(
                f"'{value}' is no value of '{covariate.name}' in the training cells; it was "
                f"{' or '.join(covariate.levels)}."
            )
        return covariate.levels.index(str(value))
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InputError(f"'{covariate.name}' is continuous; give a number for it, not {value!r}.")
    return (float(value) - covariate.mean) / covariate.sd


def average_columns(model: TrainedModel, name: str, value: str) -> np.ndarray | None:
    """Columns of the covariates, (1, v), of a cell with a value of one covariate and average in all others."""
    covariates = next(iter(model.preparations.values())).covariates
    values = {each.name: np.full(1, UNKNOWN) if each.levels else np.zeros(1, np.float32) for each in covariates}
    return _columns(covariates, values | {name: np.full(1, _encoded(covariate_of(model, name), value))})
