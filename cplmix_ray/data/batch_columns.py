"""Columns of obs that look like batches, by their names and values."""

import re
from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd

from cplmix_ray.data.covariates import level_names

_BATCHES = (
    *("batch", "donor", "sample", "orig", "tech", "platform", "protocol", "library", "lane", "chip", "patient"),
    *("subject", "individual", "condition", "stim", "treat", "chemistry", "dataset", "study", "experiment", "plate"),
    "replicate",
)
"""Beginnings of words in names of columns with batches."""
_OTHERS = ("type", "cluster", "leiden", "louvain", "class", "label", "annotation", "categor")
"""Beginnings of words in names of columns with types or clusters, or with something about a batch."""
_MOST = 100
_FEWEST_CELLS, _FEWEST_SHARE = 10, 0.01


def columns_like_batches(
    obs: pd.DataFrame, known: Collection[str | None], idx_n: np.ndarray | slice
) -> Iterator[tuple[str, pd.Categorical]]:
    """Names and values of the columns that look like batches: 2 to 100 values, each in at least 10 cells or 1 % of all.

    Args:
        known: columns whose meaning is known, which are left out.
        idx_n: rows of the cells to look at.
    """
    for name, column in obs.items():
        if name in known or not _named_like_batches(str(name)):
            continue
        values = column.iloc[idx_n]
        if values.isna().any() or not 2 <= values.nunique() <= _MOST:
            continue
        levels = level_names(values)
        if np.bincount(levels.codes).min() >= min(_FEWEST_CELLS, _FEWEST_SHARE * len(levels)):
            yield str(name), levels


def _named_like_batches(name: str) -> bool:
    words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).lower())
    return any(word.startswith(_BATCHES) for word in words) and not any(word.startswith(_OTHERS) for word in words)
