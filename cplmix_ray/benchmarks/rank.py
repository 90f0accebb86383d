"""Which score that needs no labels tells a good run from a bad one."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score

from cplmix_ray.benchmarks.results import Row, group_of, key_of, number
from cplmix_ray.benchmarks.single_run import categories_file
from cplmix_ray.checkpoints.run_folder import write_whole
from cplmix_ray.utils.errors import InputError

SCORES = {
    "consensus": 1,
    "agreement": 1,
    "amp": 1,
    "populated": 1,
    "kl_qc_pc": -1,
    "reconstruction": -1,
    "val_consensus": 1,
    "val_agreement": 1,
    "val_amp": 1,
    "val_reconstruction": -1,
    "val_loss": -1,
    "seed_agreement": 1,
}
"""Scores without labels and which way they should go: those with -1 are ranked from the smallest up."""

ALL = "mean"
"""Stands for the mean over data sets."""


@dataclass(frozen=True)
class Ranking:
    """How well a score orders the runs on some data by their accuracy.

    Attributes:
        rho: Spearman's rank correlation with the accuracy, positive where the better score has the better accuracy;
            None where one of them is the same for all runs, or fewer than three runs have both.
        picked: mean accuracy of the runs with the best score.
        mean, best: accuracy of a run taken at random, and of the best one.
    """

    data: str
    score: str
    runs: int
    rho: float | None
    picked: float
    mean: float
    best: float


def rankings(rows: Sequence[Row], categories: Path | None = None) -> list[Ranking]:
    """Every score on every data set, and the means over data sets.

    Args:
        categories: folder that the benchmark wrote with --out; with it, the agreement between seeds is ranked too.

    Raises:
        InputError: no row is of a run of cplmix with known types.
    """
    rows = [row for row in rows if row["method"] == "cplmix" and row["acc"]]
    if not rows:
        raise InputError("There is no row of a run of cplmix with an accuracy; the benchmark needs labels_key.")
    figures: dict[str, list[float | None]] = {
        score: [number(row, score) for row in rows] for score in SCORES if score != "seed_agreement"
    }
    figures["seed_agreement"] = seed_agreement(rows, categories) if categories is not None else [None] * len(rows)
    found = []
    for score, sign in SCORES.items():
        by_data = []
        for data in dict.fromkeys(row["data"] for row in rows):
            pairs = [
                (sign * value, float(row["acc"]))
                for row, value in zip(rows, figures[score], strict=True)
                if row["data"] == data and value is not None
            ]
            if pairs:
                by_data.append(_ranking(data, score, pairs))
        found += [*by_data, *_mean(score, by_data)]
    return found


def seed_agreement(rows: Sequence[Row], categories: Path) -> list[float | None]:
    """Of each run, the adjusted Rand index between its categories and those of the same settings' other seeds, mean.

    None for a run that has no others, or whose categories are not there.
    """
    kept = {key_of(row): _categories(categories, row) for row in rows}
    scores: list[float | None] = []
    for row in rows:
        own = kept[key_of(row)]
        others = [kept[key] for key in kept if key != key_of(row) and key[:-1] == group_of(row)]
        both = [(own, other) for other in others if own is not None and other is not None and len(own) == len(other)]
        pairs = [float(adjusted_rand_score(*pair)) for pair in both]
        scores.append(statistics.fmean(pairs) if pairs else None)
    return scores


def _categories(folder: Path, row: Row) -> np.ndarray | None:
    path = categories_file(folder, key_of(row))
    if not path.exists():
        return None
    with np.load(path) as file:
        return file["category_n"]


def _ranking(data: str, score: str, pairs: Sequence[tuple[float, float]]) -> Ranking:
    values, accuracies = np.array(pairs).T
    rho = None
    if len(pairs) > 2 and np.ptp(values) > 0 and np.ptp(accuracies) > 0:
        rho = float(spearmanr(values, accuracies).statistic)
    picked = float(accuracies[values == values.max()].mean())
    return Ranking(data, score, len(pairs), rho, picked, float(accuracies.mean()), float(accuracies.max()))


def _mean(score: str, by_data: Sequence[Ranking]) -> list[Ranking]:
    """One line for several data sets, each counting the same; a correlation that is not there is left out."""
    if len(by_data) < 2:
        return []
    rhos = [each.rho for each in by_data if each.rho is not None]
    means = [statistics.fmean(getattr(each, name) for each in by_data) for name in ("picked", "mean", "best")]
    rho = statistics.fmean(rhos) if rhos else None
    return [Ranking(ALL, score, sum(each.runs for each in by_data), rho, *means)]


def write_rankings(path: Path, found: Sequence[Ranking]) -> None:
    """As CSV.

    Raises:
        InputError: it cannot be written there.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["data", "score", "best_is", "runs", "spearman_acc", "picked_acc", "mean_acc", "best_acc"])
    for each in found:
        figures = [f"{value:.4f}" for value in (each.picked, each.mean, each.best)]
        rho = "" if each.rho is None or math.isnan(each.rho) else f"{each.rho:.4f}"
        direction = "high" if SCORES[each.score] > 0 else "low"
        table.writerow([each.data, each.score, direction, each.runs, rho, *figures])
    write_whole(path, lambda partial: partial.write_text(text.getvalue(), encoding="utf-8"))
