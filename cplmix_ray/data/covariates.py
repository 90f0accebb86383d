"""Covariates of the cells: batch, donor, condition, percentages. Columns of obs that a decoder receives.

A categorical covariate is a column for each level that is 1 for the cells of that level, less the share of the level
among the training cells; a continuous one is a column with mean 0 and standard deviation 1. Over the training cells
every column has mean 0, so that a cell whose columns are all 0 is an average cell. Cells of unknown batches get zeros.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cplmix_ray.utils.errors import InputError

if TYPE_CHECKING:  # workers know this file and have no use for tables
    import pandas as pd

UNKNOWN = -1
"""Code of a level that did not occur in training."""

_LARGEST = 1e30
"""Numbers in a column of obs are below this, so that their variance is finite."""


@dataclass(frozen=True)
class Covariate:
    """A column of obs and how its values become columns of the decoder's input.

    Attributes:
        name: the column of obs.
        levels: values of a categorical covariate, sorted; empty for a continuous one.
        shares: their shares of the training cells.
        mean, sd: of a continuous covariate over the training cells.
    """

    name: str
    levels: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    mean: float = 0.0
    sd: float = 1.0

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.levels) or 1

    @classmethod
    def from_dict(cls, tree: Any) -> "Covariate":
        """The inverse of ``dataclasses.asdict``.

        Raises:
            KeyError, TypeError, ValueError: it is none, or none that could have been made.
        """
        made = cls(**{**tree, "levels": tuple(tree["levels"]), "shares": tuple(map(float, tree["shares"]))})
        if len(made.levels) != len(made.shares) or not (np.isfinite(made.mean) and 0 < made.sd < np.inf):
            raise ValueError(f"the covariate '{made.name}' is none that could have been made")
        return made

    def encoded(self, column: "pd.Series") -> np.ndarray:
        """Codes of the levels (n,) int64, UNKNOWN for others; or standardised numbers (n,) float32."""
        import pandas as pd

        if self.levels:
            named_n = level_names(column)
            return pd.Index(self.levels).get_indexer(named_n.categories)[named_n.codes].astype(np.int64)
        return ((column.to_numpy(float) - self.mean) / self.sd).astype(np.float32)

    def columns(self, values_n: np.ndarray) -> np.ndarray:
        """Columns of the decoder's input for encoded values, (n, width) float32; zeros for unknown levels."""
        if not self.levels:
            return values_n.astype(np.float32)[:, None]
        out_nv = np.eye(len(self.levels), dtype=np.float32)[values_n] - np.asarray(self.shares, np.float32)
        out_nv[values_n == UNKNOWN] = 0.0
        return out_nv


def level_names(column: "pd.Series") -> "pd.Categorical":
    """Values of a column as strings, which are the levels of a categorical covariate; only those that occur.

    Whole numbers have the same name whether they are stored as integers or as floats.
    """
    import pandas as pd

    code_n, values = pd.factorize(column, use_na_sentinel=False)
    floats = pd.api.types.is_float_dtype(np.asarray(values))
    names = [str(int(value)) if floats and value == round(value) else str(value) for value in np.asarray(values)]
    return pd.Categorical(np.array(names, dtype=object)[code_n])


def batches_of(obs: "pd.DataFrame", batch_key: str | None) -> "pd.Categorical | None":
    """Batch of each cell; None without a key, without such a column, or if there is only one batch."""
    if batch_key is None or batch_key not in obs:
        return None
    batch_n = level_names(obs[batch_key])
    return batch_n if len(batch_n.categories) > 1 else None


def width_of(covariates: Sequence[Covariate]) -> int:
    """Number of columns of all covariates."""
    return sum(covariate.width for covariate in covariates)


def design_matrix(
    covariates: Sequence[Covariate], values: Mapping[str, np.ndarray], idx_n: np.ndarray | slice
) -> np.ndarray:
    """Columns of all covariates for some cells, (n, v) float32.

    Args:
        values: covariate -> encoded values of all cells.
    """
    return np.concatenate([each.columns(values[each.name][idx_n]) for each in covariates], axis=1)


def fit_covariates(
    obs: "pd.DataFrame", batch_key: str | None, others: Sequence[str], train_idx: np.ndarray, name: str
) -> tuple[tuple[Covariate, ...], tuple[str, ...]]:
    """Choose the encoding of covariates, the batch first, and say in notes what was found.

    Args:
        train_idx: cells whose levels, shares, means and standard deviations are used.
        name: of the data, for messages.

    Raises:
        InputError: a column is missing, has missing or infinite values, or has almost as many levels as cells.
    """
    found, notes = [], []
    keys = [] if batch_key is None else [(batch_key, "--batch-key")]
    for key, option in [*keys, *((other, "--covariates") for other in dict.fromkeys(others) if other != batch_key)]:
        column = _column(obs, key, option, name)
        of_training = column.iloc[train_idx]
        if option == "--covariates" and _holds_numbers(column):
            covariate: Covariate | None = _continuous(key, of_training)
        else:
            covariate = _categorical(key, of_training, option, name)
        if covariate is None:
            notes.append(f"{option} {key} has the same value in all cells of {name} and has no effect.")
            continue
        found.append(covariate)
        notes.append(_note_on(covariate, option))
    return tuple(found), tuple(notes)


def check_covariates(
    obs: "pd.DataFrame", batch_key: str | None, categorical: Sequence[str], continuous: Sequence[str], name: str
) -> None:
    """Check columns whose kind the user has named, as arguments of ``setup_anndata``.

    Raises:
        InputError: :func:`fit_covariates` would refuse one, or take it for one of the other kind.
    """
    if batch_key is not None:
        _categorical(batch_key, _column(obs, batch_key, "batch_key=", name), "batch_key=", name)
    for key in categorical:
        option = "categorical_covariate_keys="
        column = _column(obs, key, option, name)
        if _holds_numbers(column):
            raise InputError(
                f"Column '{key}' of {name} holds numbers; give it in continuous_covariate_keys=, or make it "
                f"categorical with adata.obs['{key}'] = adata.obs['{key}'].astype(str).astype('category')."
            )
        _categorical(key, column, option, name)
    for key in continuous:
        option = "continuous_covariate_keys="
        column = _column(obs, key, option, name)
        if not _holds_numbers(column):
            raise InputError(
                f"Column '{key}' of {name} holds no numbers but values of the type {column.dtype}; give it in "
                f"categorical_covariate_keys=, or convert it with adata.obs['{key}'].astype(float)."
            )
        _continuous(key, column)


def encode_covariates(
    obs: "pd.DataFrame", covariates: Sequence[Covariate], name: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Encode the covariates of any cells: a column that is missing, and levels that did not occur in training, count
    as unknown, and a note says so.

    Raises:
        InputError: a continuous column holds other values than numbers, or a column has missing or infinite values.
    """
    values, notes = {}, []
    for covariate in covariates:
        if covariate.name not in obs:
            unknown = np.full(len(obs), UNKNOWN) if covariate.levels else np.zeros(len(obs), np.float32)
            values[covariate.name] = unknown
            notes.append(
                f"{name} has no column '{covariate.name}' in obs, which the model was trained with; its cells are "
                f"taken as average ones in it."
            )
            continue
        column = _column(obs, covariate.name, "the model", name)
        if not covariate.levels and not _holds_numbers(column):
            raise InputError(
                f"Column '{covariate.name}' of {name} does not hold numbers, and the model was trained with numbers in "
                f"it; convert it."
            )
        values[covariate.name] = covariate.encoded(column)
        new_n = values[covariate.name] == UNKNOWN
        if covariate.levels and new_n.any():
            names = level_names(column[new_n]).categories
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            notes.append(
                f"{new_n.sum():,} cells of {name} have values of '{covariate.name}' that did not occur in training "
                f"({shown}); they are taken as average ones in it."
            )
    return values, tuple(notes)


def _column(obs: "pd.DataFrame", key: str, option: str, name: str) -> "pd.Series":
    if key not in obs:
        has = ", ".join(map(str, obs.columns[:20])) or "none"
        raise InputError(f"{name} has no column '{key}' in obs for {option}; it has {has}.")
    column = obs[key]
    missing = int(column.isna().sum())
    if missing:
        raise InputError(
            f"Column '{key}' of {name} has no value in {missing:,} cells; give those cells a value, such as 'unknown', "
            f"or leave them out."
        )
    if _holds_numbers(column) and not (np.abs(column.to_numpy(float)) < _LARGEST).all():
        raise InputError(
            f"Column '{key}' of {name} holds infinite values or values above {_LARGEST:g}, which {option} cannot use; "
            f"replace them."
        )
    return column


def _holds_numbers(column: "pd.Series") -> bool:
    import pandas as pd

    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def _categorical(key: str, column: "pd.Series", option: str, name: str) -> Covariate | None:
    import pandas as pd

    counts = pd.Series(level_names(column)).value_counts().sort_index()
    if len(counts) > max(2, len(column) // 2):
        raise InputError(
            f"Column '{key}' of {name} has {len(counts):,} different values in {len(column):,} cells, too many for "
            f"{option}; give a column in which many cells have the same value."
        )
    if len(counts) < 2:
        return None
    return Covariate(key, tuple(counts.index), tuple(float(share) for share in counts / counts.sum()))


def _continuous(key: str, column: "pd.Series") -> Covariate | None:
    numbers_n = column.to_numpy(float)
    mean, sd = float(numbers_n.mean()), float(numbers_n.std())
    return None if sd <= 1e-12 * max(1.0, abs(mean)) else Covariate(key, (), (), mean, sd)


def _note_on(covariate: Covariate, option: str) -> str:
    if not covariate.levels:
        return (
            f"{option} {covariate.name}: continuous, mean {covariate.mean:.4g}, standard deviation {covariate.sd:.4g}."
        )
    shown = ", ".join(covariate.levels[:5]) + (", ..." if len(covariate.levels) > 5 else "")
    return f"{option} {covariate.name}: {len(covariate.levels)} values ({shown})."
