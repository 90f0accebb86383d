"""The consensus of runs that differ in the seed, and how stable categories and cells are over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.metrics.matching import NO_PARTNER, count_overlaps, jaccard_indices, match_categories

RECOVERED = 0.5
"""A category comes back in a run if some category of the run has a higher Jaccard index with it. With at most 0.5, a
category counts as dissolved (Hennig 2007)."""
_MOST_ROUNDS = 50


@dataclass(frozen=True)
class SeedConsensus:
    """The consensus of S runs over the same cells.

    Attributes:
        probs_nk: mean over runs of the posteriors, after the categories of each run were matched.
        category_sn: category of each cell in each run, by the numbers that the run itself has.
        matched_sn: the same by the numbers of the consensus; NO_PARTNER for a category that it lacks.
        medoid: the run whose categories agree most with those of the others; the consensus has its numbers.
        agreement: adjusted Rand index between the categories of two runs, mean over pairs.
    """

    probs_nk: np.ndarray
    category_sn: np.ndarray
    matched_sn: np.ndarray
    medoid: int
    agreement: float

    @property
    def category_n(self) -> np.ndarray:
        return self.probs_nk.argmax(axis=1)

    @property
    def stability_n(self) -> np.ndarray:
        """Share of the runs in which a cell has its category of the consensus."""
        return (self.matched_sn == self.category_n).mean(axis=0)


def consensus_of_seeds(probs_s: Sequence[np.ndarray]) -> SeedConsensus:
    """The mean of the matched posteriors of several runs.

    It starts from the medoid. In every round, the categories of each run are matched with those of the consensus (the
    one-to-one matching with the largest sum of products of probabilities), and the mean over runs is the new consensus,
    until no cell changes its category.

    Args:
        probs_s: posteriors of each run, shape (n, K) with the same cells.
    """
    category_sn = np.stack([probs_nk.argmax(axis=1) for probs_nk in probs_s])
    n_runs, agreement_ss = len(probs_s), np.eye(len(probs_s))
    for s, t in combinations(range(n_runs), 2):
        agreement_ss[s, t] = agreement_ss[t, s] = adjusted_rand_score(category_sn[s], category_sn[t])
    medoid = int(agreement_ss.sum(axis=0).argmax())
    mean_nk = probs_s[medoid]
    for _ in range(_MOST_ROUNDS):
        before_nk, partner_sk = mean_nk, [match_categories(probs_nk.T @ mean_nk) for probs_nk in probs_s]
        mean_nk = np.zeros_like(before_nk)
        for probs_nk, partner_k in zip(probs_s, partner_sk, strict=True):
            kept = np.flatnonzero(partner_k != NO_PARTNER)
            mean_nk[:, partner_k[kept]] += probs_nk[:, kept] / n_runs
        if np.array_equal(mean_nk.argmax(axis=1), before_nk.argmax(axis=1)):
            break
    matched_sn = np.stack(
        [partner_k[category_n] for partner_k, category_n in zip(partner_sk, category_sn, strict=True)]
    )
    agreement = float((agreement_ss.sum() - n_runs) / (n_runs * (n_runs - 1))) if n_runs > 1 else 1.0
    return SeedConsensus(mean_nk / mean_nk.sum(axis=1, keepdims=True), category_sn, matched_sn, medoid, agreement)


def stability_table(consensus: SeedConsensus) -> pd.DataFrame:
    """How stable each category is over the runs, as in ``clusterboot`` of the R package fpc (Hennig 2007).

    Returns:
        A row for each category: ``category``, ``cells``, ``jaccard`` (largest Jaccard index with a category of a run,
        mean over runs), ``jaccard_min`` (its minimum), ``recovered`` (share of the runs in which it is above 0.5) and
        ``stays`` (share of its cells that a run has in the matching category, mean over runs). The last four are NaN
        for a category without cells.
    """
    category_n, n_k = consensus.category_n, consensus.probs_nk.shape[1]
    best_sk = np.stack(
        [
            jaccard_indices(count_overlaps(category_n, each_n, n_k, int(each_n.max()) + 1)).max(axis=1)
            for each_n in consensus.category_sn
        ]
    )
    cells_k = np.bincount(category_n, minlength=n_k)
    stays_k = np.bincount(category_n, consensus.stability_n, n_k) / np.maximum(cells_k, 1)
    table = pd.DataFrame(
        {
            "category": np.arange(n_k),
            "cells": cells_k,
            "jaccard": best_sk.mean(axis=0),
            "jaccard_min": best_sk.min(axis=0),
            "recovered": (best_sk > RECOVERED).mean(axis=0),
            "stays": stays_k,
        }
    )
    table.loc[table["cells"] == 0, ["jaccard", "jaccard_min", "recovered", "stays"]] = np.nan
    return table
