"""Sentences for the user on categories that follow the batch."""

import numpy as np
import pandas as pd

from cplmix_ray.config.data import Input
from cplmix_ray.data.batch_columns import columns_like_batches
from cplmix_ray.data.covariates import batches_of
from cplmix_ray.metrics.batch_mixing import batch_table, drawn_cells, of_one_batch

_MOST_NAMES = 5
_FOLLOWS = 0.1
"""Categories follow a column if those that consist of one of its values hold at least this share of the cells."""


def batch_remarks(category_n: np.ndarray, obs: pd.DataFrame, given: Input, seed: int) -> list[str]:
    """A warning on categories that consist of one batch; without a batch key, a note on a column that may name batches
    and that categories follow.

    Args:
        category_n: inferred categories.
        seed: draws the cells in which columns are looked for.
    """
    if len(category_n) == 0:
        return []
    if given.batch_key is None:
        return _unnamed_batches(category_n, obs, given, seed)
    batch_n = batches_of(obs, given.batch_key)
    found = pd.DataFrame() if batch_n is None else of_one_batch(batch_table(category_n, batch_n))
    if found.empty:
        return []
    return [
        f"Almost all cells of some categories are of one batch in the column '{given.batch_key}': {_listed(found)}; "
        f"either the other batches lack these types, or an effect of the batch was not removed: compare the marker "
        f"genes of these categories with those of the others, and if a type has a category for each batch, try a "
        f"smaller --n-categories."
    ]


def _unnamed_batches(category_n: np.ndarray, obs: pd.DataFrame, given: Input, seed: int) -> list[str]:
    idx_n = drawn_cells(len(category_n), seed)
    known = (given.labels_key, *given.state_key, *given.covariates)
    most, sentence = _FOLLOWS * len(category_n[idx_n]), []
    for name, values in columns_like_batches(obs, known, idx_n):
        found = of_one_batch(batch_table(category_n[idx_n], values))
        if not found.empty and found["cells"].sum() >= most:
            most = found["cells"].sum() + 1
            sentence = [
                f"obs has a column '{name}', and some categories consist almost only of cells with one of its values: "
                f"{_listed(found)}; if it names batches, train with --batch-key '{name}', which removes their effect."
            ]
    return sentence


def _listed(found: pd.DataFrame) -> str:
    """Categories of each batch, the batches with the largest categories first."""
    parts = []
    for batch, rows in found.groupby("largest_batch", sort=False):
        categories = [str(category) for category in rows["category"]]
        more = f" and {len(categories) - _MOST_NAMES} more" if len(categories) > _MOST_NAMES else ""
        word = "category" if len(categories) == 1 else "categories"
        share = 100 * rows["share_of_all"].iloc[0]
        parts.append(f"{word} {', '.join(categories[:_MOST_NAMES])}{more} of '{batch}' ({share:.0f} % of all cells)")
    hidden = f", and those of {len(parts) - _MOST_NAMES} more" if len(parts) > _MOST_NAMES else ""
    return ", ".join(parts[:_MOST_NAMES]) + hidden
