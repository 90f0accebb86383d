"""Rank correlation of scores that need no labels with the accuracy of the runs."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.benchmarks.execute import categories_file
from cplmix_ray.benchmarks.results import COLUMNS, keys_of
from cplmix_ray.metrics.registry import find_metric
from cplmix_ray.utils.durable import write_whole
from cplmix_ray.utils.errors import InputError

ALL = "mean"
"""Stands for the mean over data sets."""

SCORES: dict[str, int] = {}
"""Scores that need no labels, and 1 where more is better, -1 where less is."""
for _name in (*COLUMNS, "seed_agreement"):
    _metric = find_metric(_name)
    if _metric is not None and not _metric.needs_labels and _metric.group != "run":
        # These two have no better direction; they are ranked as if many categories in even use were better.
        _sign = {"max": 1, "min": -1, None: {"populated": 1, "kl_qc_pc": -1}.get(_name)}[_metric.direction]
        if _sign is not None:
            SCORES[_name] = _sign


def rank_scores(rows: pd.DataFrame, folder: Path | None = None) -> pd.DataFrame:
    """How well each score orders the runs on each data set by their accuracy, and the means over data sets.

    Args:
        folder: folder of ``bench accuracy --out``; with it, the agreement between seeds is ranked too.

    Returns:
        One row per score and data set: best_is (high or low); runs; spearman_acc, positive where the better score has
        the better accuracy, NaN with fewer than three runs or where one of them does not vary; picked_acc, mean
        accuracy of the runs with the best score; mean_acc and best_acc over the runs.

    Raises:
        InputError: no row is of a run of cplmix with known types.
    """
    rows = rows[(rows["method"] == "cplmix") & (rows["acc"] != "")]
    if rows.empty:
        raise InputError("There is no row of a run of cplmix with an accuracy; the benchmark needs labels_key.")
    accuracy = pd.to_numeric(rows["acc"])
    found = []
    for score, sign in SCORES.items():
        if score in rows:
            values = pd.to_numeric(rows[score])
        elif folder is not None:
            values = seed_agreement(rows, folder)
        else:
            continue
        both = pd.DataFrame({"data": rows["data"], "score": sign * values, "acc": accuracy}).dropna()
        by_data = [
            {"data": data, "score": score, "best_is": "high" if sign > 0 else "low", **_ranking(runs)}
            for data, runs in both.groupby("data", sort=False)
        ]
        found += by_data
        if len(by_data) > 1:
            table = pd.DataFrame(by_data)
            means = table[["spearman_acc", "picked_acc", "mean_acc", "best_acc"]].mean()
            found.append({**by_data[0], "data": ALL, "runs": table["runs"].sum(), **means})
    return pd.DataFrame(found)


def _ranking(runs: pd.DataFrame) -> dict[str, float]:
    score, accuracy = runs["score"], runs["acc"]
    varies = len(runs) > 2 and score.nunique() > 1 and accuracy.nunique() > 1
    return {
        "runs": len(runs),
        "spearman_acc": float(spearmanr(score, accuracy).statistic) if varies else np.nan,
        "picked_acc": accuracy[score == score.max()].mean(),
        "mean_acc": accuracy.mean(),
        "best_acc": accuracy.max(),
    }


def seed_agreement(rows: pd.DataFrame, folder: Path) -> pd.Series:
    """Of each run, the mean adjusted Rand index between its categories and those of the other seeds of its group.

    NaN for a run without others, or whose categories are not in the folder.
    """
    kept = {key: _categories(folder, key) for key in keys_of(rows)}

    def agreement(key: tuple[str, ...]) -> float:
        own, others = kept[key], [kept[other] for other in kept if other != key and other[:-1] == key[:-1]]
        pairs = [(own, other) for other in others if own is not None and other is not None and len(own) == len(other)]
        return float(np.mean([adjusted_rand_score(*pair) for pair in pairs])) if pairs else np.nan

    return pd.Series([agreement(key) for key in keys_of(rows)], rows.index, dtype=float)


def _categories(folder: Path, key: tuple[str, ...]) -> np.ndarray | None:
    path = categories_file(folder, key)
    if not path.exists():
        return None
    with np.load(path) as file:
        return file["category_n"]


def write_rankings(path: Path, rankings: pd.DataFrame) -> None:
    """Write the table as CSV.

    Raises:
        InputError: it cannot be written there.
    """
    write_whole(path, lambda partial: rankings.to_csv(partial, index=False, float_format="%.4f", lineterminator="\n"))
