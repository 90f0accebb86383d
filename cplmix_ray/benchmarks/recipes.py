"""Ranking of clustering methods with fixed settings (recipes) by their scores over several data sets."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cplmix_ray.benchmarks.results import keys_of
from cplmix_ray.benchmarks.runs import BenchmarkRun
from cplmix_ray.utils.durable import write_whole

ALL = "all"
MARGIN = 0.03
"""Difference in ARI by which a recipe must be below the median to be counted as below it on a cell set."""


def recipe_scores(rows: pd.DataFrame, runs: Iterable[BenchmarkRun]) -> pd.DataFrame:
    """Average the scores of each recipe on each cell set over the seeds.

    Returns:
        Columns part, cell_set, recipe, method, runs, ari, acc; without runs that have no row or no ARI.
    """
    kept = {run.key: run for run in runs if run.entry.compared is not None}
    found = []
    for key, ari, acc in zip(keys_of(rows), pd.to_numeric(rows["ari"]), pd.to_numeric(rows["acc"]), strict=True):
        if (run := kept.get(key)) is not None and run.entry.compared is not None:
            name = {**run.entry.compared.model_dump(), "method": run.entry.method}
            found.append({**name, "recipe": name["recipe"] + run.point, "ari": ari, "acc": acc})
    scores = pd.DataFrame(found, columns=["part", "cell_set", "recipe", "method", "ari", "acc"]).dropna()
    by = scores.groupby(["part", "cell_set", "recipe", "method"], sort=False)
    return by.agg(runs=("ari", "size"), ari=("ari", "mean"), acc=("acc", "mean")).reset_index()


def rank_recipes(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of every recipe over all cell sets, and over those of each part, best first.

    The median and the best recipe, with which all are compared, are among the other methods than cplmix that have
    scores on all sets, or among all recipes where there is no such method.

    Returns:
        part; recipe; sets, the number of sets with scores; mean_ari and mean_acc; mean_rank by ARI (1 is best) among
        the recipes with scores on all sets, NaN for others; below_median, the number of sets on which the ARI is more
        than 0.03 below that of the median recipe; minus_best, mean difference of the ARI to that of the recipe with the
        best mean, over the recipe's own sets.
    """
    parts = [scores["part"] == part for part in sorted(scores["part"].unique())]
    found = [_ranking(scores, ALL), *(_ranking(scores[part], scores["part"][part].iloc[0]) for part in parts)]
    return pd.concat(found, ignore_index=True)


def _ranking(scores: pd.DataFrame, part: str) -> pd.DataFrame:
    ari_rs = scores.pivot(index="recipe", columns="cell_set", values="ari")
    complete_rs = ari_rs.dropna()
    others = scores.loc[scores["method"] != "cplmix", "recipe"].unique()
    fixed_rs = complete_rs[complete_rs.index.isin(others)]
    fixed_rs = complete_rs if fixed_rs.empty else fixed_rs
    best = fixed_rs.mean(axis=1).nlargest(1).index
    table = pd.DataFrame(
        {
            "part": part,
            "sets": ari_rs.count(axis=1),
            "mean_ari": ari_rs.mean(axis=1),
            "mean_acc": scores.groupby("recipe")["acc"].mean(),
            "mean_rank": complete_rs.rank(ascending=False).mean(axis=1),
            "below_median": (ari_rs < fixed_rs.median() - MARGIN).sum(axis=1),
            "minus_best": (ari_rs - fixed_rs.loc[best].mean()).mean(axis=1),
        }
    )
    table = table.sort_values(["sets", "mean_ari"], ascending=False)
    return table.rename_axis("recipe").reset_index()[["part", "recipe", *table.columns[1:]]]


def scores_by_set(scores: pd.DataFrame) -> pd.DataFrame:
    """ARI of each recipe (rows) on each cell set (columns), in the order of the rows."""
    wide = scores.pivot(index="recipe", columns="cell_set", values="ari")
    return wide.loc[scores["recipe"].unique(), scores["cell_set"].unique()].rename_axis(columns=None).reset_index()


def write_comparison(rows: Path, scores: pd.DataFrame, ranking: pd.DataFrame) -> tuple[Path, Path]:
    """Write the ranking as CSV and, with the scores on every set, as Markdown; both beside the rows.

    Raises:
        InputError, DiskError: they cannot be written there.
    """
    as_csv, as_markdown = rows.with_name(f"{rows.stem}_ranking.csv"), rows.with_name(f"{rows.stem}_ranking.md")
    tables = {f"Cell sets: {part}": table.drop(columns="part") for part, table in ranking.groupby("part", sort=False)}
    tables["ARI on every cell set"] = scores_by_set(scores)
    text = "\n".join(f"## {title}\n\n{_markdown(table)}\n" for title, table in tables.items())
    write_whole(as_csv, lambda path: ranking.to_csv(path, index=False, float_format="%.4f", lineterminator="\n"))
    write_whole(as_markdown, lambda path: path.write_text(text, encoding="utf-8"))
    return as_csv, as_markdown


def text_of(value: float | int | str) -> str:
    """Format a number for a table; NaN becomes "-"."""
    if isinstance(value, float):
        return "-" if value != value else f"{value:.3f}"
    return str(value)


def _markdown(table: pd.DataFrame) -> str:
    lines = [table.columns, ["---"] * table.shape[1], *(map(text_of, row) for row in table.itertuples(index=False))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
