"""Two assignments of the same cells to categories compared."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from cplmix_ray.metrics.matching import NO_PARTNER, count_overlaps, jaccard_indices, match_categories
from cplmix_ray.utils.errors import InputError

_MOST_OTHERS = 3


@dataclass(frozen=True)
class CategoryComparison:
    """Result of :func:`compare_categories`.

    Attributes:
        table: a row for each category of A (``category``), and for each of B that has no partner: its partner in B
            (``matched``), the numbers of cells of both, of shared cells and of those that B has elsewhere, the Jaccard
            index, and the categories of B that have most of those (``elsewhere``).
        ari, ami: adjusted Rand index and adjusted mutual information.
        stay: share of the cells whose categories are matched with each other.
        n_cells: cells that both have and that have a category in both.
    """

    table: pd.DataFrame
    ari: float
    ami: float
    stay: float
    n_cells: int


def compare_categories(a: pd.Series, b: pd.Series, name_a: str = "A", name_b: str = "B") -> CategoryComparison:
    """Match the categories of two assignments one to one, so that most cells stay.

    Args:
        a, b: category of each cell, with the names of the cells as the index; in any order.

    Raises:
        InputError: the names of cells are not unique, or there is no cell with a category in both.
    """
    for each, name in ((a, name_a), (b, name_b)):
        if not each.index.is_unique:
            raise InputError(f"{name} has cells of the same name, so that cells cannot be matched; make names unique.")
    a, b = a.dropna().astype(str), b.dropna().astype(str)
    names = a.index.intersection(b.index)
    if len(names) == 0:
        raise InputError(f"{name_a} and {name_b} have no cell in common; give two results on the same cells.")
    of_a, of_b = (sorted(each[names].unique(), key=_numbers_first) for each in (a, b))
    code_a_n, code_b_n = pd.Index(of_a).get_indexer(a[names]), pd.Index(of_b).get_indexer(b[names])
    overlap_kl = count_overlaps(code_a_n, code_b_n, len(of_a), len(of_b))
    jaccard_kl, partner_k = jaccard_indices(overlap_kl), match_categories(overlap_kl)
    partner_k[overlap_kl[np.arange(len(of_a)), partner_k] == 0] = NO_PARTNER
    rows = [_row(k, partner_k[k], overlap_kl, jaccard_kl, of_a, of_b) for k in range(len(of_a))]
    for each in sorted(set(range(len(of_b))) - set(partner_k)):
        rows.append(
            {"category": "", "matched": of_b[each], "cells": 0, "matched_cells": int(overlap_kl[:, each].sum())}
        )
    table = pd.DataFrame(rows).fillna({"shared": 0, "jaccard": 0.0, "elsewhere": ""}).astype({"shared": int})
    shared = int(table["shared"].sum())
    ari, ami = adjusted_rand_score(code_a_n, code_b_n), adjusted_mutual_info_score(code_a_n, code_b_n)
    return CategoryComparison(table, float(ari), float(ami), shared / len(names), len(names))


def _numbers_first(name: str) -> tuple[bool, int, str]:
    """Key by which "2" comes before "10", and both before other names."""
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def _row(
    k: int, partner: int, overlap_kl: np.ndarray, jaccard_kl: np.ndarray, of_a: list[str], of_b: list[str]
) -> dict[str, str | int | float]:
    """Row of the table for category k of A."""
    found = partner != NO_PARTNER
    others = [each for each in np.argsort(-overlap_kl[k], kind="stable") if each != partner and overlap_kl[k, each]]
    listed = [f"{of_b[each]} ({overlap_kl[k, each]})" for each in others[:_MOST_OTHERS]]
    if len(others) > _MOST_OTHERS:
        listed.append(f"{len(others) - _MOST_OTHERS} more ({overlap_kl[k, others[_MOST_OTHERS:]].sum()})")
    return {
        "category": of_a[k],
        "matched": of_b[partner] if found else "",
        "cells": int(overlap_kl[k].sum()),
        "matched_cells": int(overlap_kl[:, partner].sum()) if found else 0,
        "shared": int(overlap_kl[k, partner]) if found else 0,
        "jaccard": float(jaccard_kl[k, partner]) if found else 0.0,
        "elsewhere": ", ".join(listed),
    }
