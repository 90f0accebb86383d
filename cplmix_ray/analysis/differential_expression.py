"""Differential expression between two conditions inside each category.

Cells are compared by the Wilcoxon rank-sum test on log-expression. Cells of one donor are alike, so that such a test
takes differences between donors for effects of the condition; where the sample of each cell is known, the samples are
compared too, by the same test on pseudo-bulk (the sum over the cells of a sample and category).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import comb, log

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from cplmix_ray.analysis.expression import average_columns, covariate_of, decode
from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.preprocessing.preparation import Preparation, prepare
from cplmix_ray.data.preprocessing.value_kinds import CENTRED, LINEAR, WORDS
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.utils.errors import InputError

FEWEST_CELLS = 10
"""Fewest cells of each group with which a category is tested, and of a sample with which its sum is used."""
_VALUES_AT_ONCE = 20_000_000
_EXACT_UP_TO = 8
"""Samples in the smaller group up to which the distribution of the rank sum is exact. Ties, which are frequent at zero
alone, make the exact test conservative."""


@dataclass(frozen=True)
class Comparison:
    """Two groups of cells.

    Attributes:
        groupby: column of obs.
        group1, group2: values of it; changes are those from group2 to group1.
        within: column of obs inside each of whose values the groups are compared; None: the inferred categories.
        sample_key: column of obs with the biological sample of each cell, such as the donor.
    """

    groupby: str
    group1: str
    group2: str
    within: str | None = None
    sample_key: str | None = None


def differential_expression(
    model: TrainedModel, source: Source, comparison: Comparison
) -> tuple[pd.DataFrame, list[str]]:
    """Compare two groups of cells inside each category, for all genes of the matrix.

    Returns:
        A row for each category and gene, by ascending p-value in each category, and notes for the user. Columns:
        category, gene; n_1, n_2 (cells of both groups); mean_1, mean_2 (log-expression); log2_fold_change (their
        difference to base 2); p_value; p_adjusted (Benjamini-Hochberg over the genes of the category). With a sample
        key, the same of the samples, by pseudo-bulk: samples_1, samples_2, bulk_log2_fold_change, bulk_p_value,
        bulk_p_adjusted. If ``groupby`` is a covariate of the model, model_log2_fold_change: the difference between
        both groups that the decoder gives for the average cell of the category, NaN for genes that the model does not
        have. A gene with the same value in all cells is not tested and has the p-value NaN.

    Raises:
        InputError: a column or group does not exist, or the values have no fold changes.
    """
    preparation = next(iter(model.preparations.values()))
    if preparation.values is None or preparation.values in CENTRED:
        what = WORDS[preparation.values] if preparation.values else "values of an unknown kind"
        raise InputError(
            f"The model was trained on {what}, which have no fold changes; train on counts or their logarithm."
        )
    prepared = model.prepare(source)
    latent = model.infer(prepared, ["probs_nk", "state_nd"])
    categories = pd.Categorical.from_codes(
        latent["probs_nk"].argmax(1), categories=[str(k) for k in range(latent["probs_nk"].shape[1])]
    )
    if comparison.within is not None:
        within_n = _column(source, comparison.within)
        categories = pd.Categorical(within_n, sorted({*within_n} - {""}))
    group_n = _column(source, comparison.groupby)
    for group in (comparison.group1, comparison.group2):
        if not group or group not in {*group_n}:
            values = ", ".join(sorted({*group_n} - {""})[:20])
            raise InputError(f"'{group}' is no value of '{comparison.groupby}' in {source.name}; it has {values}.")
    if comparison.group1 == comparison.group2:
        raise InputError(f"Both groups are '{comparison.group1}'; give two different values of '{comparison.groupby}'.")
    sample_n = None if comparison.sample_key is None else _column(source, comparison.sample_key)
    cells = _CellsToTest(source, preparation)
    tables, notes, fewest_samples = [], [], []
    for category in categories.categories:
        of_n = np.asarray(categories == category)
        idx_1, idx_2 = (np.flatnonzero(of_n & (group_n == g)) for g in (comparison.group1, comparison.group2))
        if min(len(idx_1), len(idx_2)) < FEWEST_CELLS:
            notes.append(
                f"'{category}' is not tested: it has {len(idx_1)} cells of '{comparison.group1}' and {len(idx_2)} of "
                f"'{comparison.group2}', and {FEWEST_CELLS} of each are required."
            )
            continue
        table = cells.test_cells(idx_1, idx_2)
        table.insert(0, "category", category)
        if sample_n is not None:
            cells.test_samples(idx_1, idx_2, sample_n, table)
            fewest_samples.append(tuple(table[["samples_1", "samples_2"]].iloc[0]))
        if comparison.groupby in prepared.covariates:
            both = np.concatenate([idx_1, idx_2])
            change = _change_in_model(model, latent, both, comparison) / cells.log_2
            table["model_log2_fold_change"] = pd.Series(change, preparation.var_names).reindex(source.var_names).array
        tables.append(table.sort_values(["p_value", "log2_fold_change"], key=_order, kind="stable"))
    if not tables:
        raise InputError(f"No category can be tested; {notes[0]}")
    if sample_n is None:
        notes.append(
            "Cells are tested as if each were a sample of its own, so that differences between donors count as "
            "effects; give the donor or sample of each cell with --sample-key."
        )
    else:
        notes += _on_few_samples(fewest_samples)
    return pd.concat(tables, ignore_index=True), notes


class _CellsToTest:
    """Tests on the log-expression of all genes of a matrix, by cell and by pseudo-bulk."""

    def __init__(self, source: Source, preparation: Preparation):
        self.genes = source.var_names
        if preparation.values in LINEAR:  # and the model may have taken them as they are
            preparation = replace(preparation, kind="log", target_sum=preparation.target_sum or 1e4)
        self.logs: Matrix = prepare(source.matrix, preparation)
        self.raw = source.matrix if preparation.target_sum is not None else None
        base = None if preparation.target_sum is not None else preparation.log_base
        self.log_2 = log(2) / (1.0 if base is None else log(base))
        """log 2 to the base of the log-expression."""

    def test_cells(self, idx_1: np.ndarray, idx_2: np.ndarray) -> pd.DataFrame:
        """The rank-sum test on the cells of two groups, a row for each gene."""
        found = [_ranked(x_1, x_2, "asymptotic") for x_1, x_2 in self._blocks(idx_1, idx_2)]
        mean_1, mean_2, p_value = np.concatenate(found, axis=1)
        columns = {
            "gene": self.genes,
            "n_1": len(idx_1),
            "n_2": len(idx_2),
            "mean_1": mean_1,
            "mean_2": mean_2,
            "log2_fold_change": (mean_1 - mean_2) / self.log_2,
            "p_value": p_value,
            "p_adjusted": _adjusted(p_value),
        }
        return pd.DataFrame(columns)

    def test_samples(self, idx_1: np.ndarray, idx_2: np.ndarray, sample_n: np.ndarray, table: pd.DataFrame) -> None:
        """Add the test on the pseudo-bulk of samples to the table of the cells."""
        bulk_1, bulk_2 = self._bulk(idx_1, sample_n), self._bulk(idx_2, sample_n)
        table["samples_1"], table["samples_2"] = len(bulk_1), len(bulk_2)
        mean_1 = mean_2 = p_value = np.full(len(self.genes), np.nan)
        if len(bulk_1) and len(bulk_2):
            method = "exact" if min(len(bulk_1), len(bulk_2)) <= _EXACT_UP_TO else "asymptotic"
            mean_1, mean_2, p_value = _ranked(bulk_1, bulk_2, method)
        table["bulk_log2_fold_change"] = (mean_1 - mean_2) / log(2)
        table["bulk_p_value"], table["bulk_p_adjusted"] = p_value, _adjusted(p_value)

    def _bulk(self, idx: np.ndarray, sample_n: np.ndarray) -> np.ndarray:
        """log1p of counts per million of the samples with enough cells, (samples, g)."""
        found = []
        for sample in sorted({*sample_n[idx]} - {""}):
            own = idx[sample_n[idx] == sample]
            if len(own) < FEWEST_CELLS:
                continue
            values = self.logs.rows(own) if self.raw is None else self.raw.rows(own)
            if self.raw is None:  # exp(x) - 1 is in proportion to counts
                values = np.expm1(values * (log(2) / self.log_2))
            sum_g = np.asarray(values.sum(axis=0), dtype=np.float64).ravel()
            found.append(np.log1p(1e6 * sum_g / max(sum_g.sum(), 1e-300)))
        return np.array(found).reshape(len(found), len(self.genes))

    def _blocks(self, idx_1: np.ndarray, idx_2: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Dense values of some genes at a time; those of all genes are in memory as they are stored."""
        values = [self.logs.rows(idx) for idx in (idx_1, idx_2)]
        by_gene = [each.tocsc() if sp.issparse(each) else each for each in values]
        size = max(1, _VALUES_AT_ONCE // (len(idx_1) + len(idx_2)))
        for start in range(0, len(self.genes), size):
            x_1, x_2 = (each[:, start : start + size] for each in by_gene)
            yield (x_1.toarray(), x_2.toarray()) if sp.issparse(x_1) else (x_1, x_2)


def _ranked(x_1: np.ndarray, x_2: np.ndarray, method: str) -> np.ndarray:
    """Means of both groups and the two-sided p-value of the rank-sum test, (3, g)."""
    p_value = stats.mannwhitneyu(x_1, x_2, axis=0, method=method).pvalue
    same = (x_1.min(0) == x_1.max(0)) & (x_2.min(0) == x_2.max(0)) & (x_1[0] == x_2[0])
    return np.stack([x_1.mean(0, dtype=float), x_2.mean(0, dtype=float), np.where(same, np.nan, p_value)])


def _adjusted(p_value: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg over the genes that were tested."""
    out, tested = np.full(len(p_value), np.nan), ~np.isnan(p_value)
    if tested.any():
        out[tested] = stats.false_discovery_control(p_value[tested])
    return out


def _change_in_model(
    model: TrainedModel, latent: dict[str, np.ndarray], idx: np.ndarray, comparison: Comparison
) -> np.ndarray:
    """Change of log-expression from group2 to group1 that the decoder gives for the average of some cells, (g,)."""
    c_nk, s_nd = (latent[name][idx].mean(0, keepdims=True) for name in ("probs_nk", "state_nd"))
    covariate_of(model, comparison.groupby)
    found = [
        decode(model, c_nk, s_nd, average_columns(model, comparison.groupby, level))[0]
        for level in (comparison.group1, comparison.group2)
    ]
    if next(iter(model.preparations.values())).kind == "counts":
        found = [np.log(np.maximum(each, 1e-30)) for each in found]
    change: np.ndarray = found[0] - found[1]
    return change


def _on_few_samples(samples: list[tuple[int, int]]) -> list[str]:
    """A note if there are too few samples for any p-value of the exact test to be below 0.05."""
    smallest, pair = min((2 / comb(n_1 + n_2, n_1) if n_1 and n_2 else 1.0, (n_1, n_2)) for n_1, n_2 in samples)
    if smallest <= 0.05:
        return []
    return [
        f"With {pair[0]} and {pair[1]} samples, no p-value of the rank-sum test on pseudo-bulk can be below "
        f"{smallest:.2g}; with four samples of each group it can be below 0.05."
    ]


def _column(source: Source, key: str) -> np.ndarray:
    obs = source.adata.obs
    if key not in obs:
        raise InputError(f"{source.name} has no column '{key}' in obs; it has {', '.join(map(str, obs.columns[:20]))}.")
    column = pd.Series(obs[key])
    return np.where(column.isna(), "", column.astype(str)).astype(str)


def _order(column: pd.Series) -> pd.Series:
    return -column.abs() if column.name == "log2_fold_change" else column
