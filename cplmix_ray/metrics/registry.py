"""Registry of metrics: every figure that a run, a search or a benchmark reports, declared once.

Command lines, searches, benchmarks and docs/metrics.md read names, directions, labels and meanings from here. The
module imports nothing heavy, so that configurations can be checked without torch or scikit-learn. After a change,
update the tables of the documentation with ``python -m cplmix_ray.metrics.registry docs/metrics.md``.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Direction = Literal["max", "min"]
Group = Literal["types", "states", "batches", "run", "seeds", "augmenter", "benchmark"]
ShownIn = Literal["progress", "summary", "trials", "benchmark"]


@dataclass(frozen=True)
class Metric:
    """A named figure.

    Attributes:
        name: key in metrics.json, column of result files, tag in TensorBoard. A name that begins with ``val_`` and is
            not registered itself means the metric over the validation cells.
        direction: "max" or "min", the better direction; None where neither is better.
        meaning: one or two sentences: definition, range, unit.
        group: table of docs/metrics.md that it belongs to.
        label: how tables and figures call it; default: its name.
        needs_labels: only there with known types.
        needs_arms: compares arms, so at least two are needed for it to say something.
        searchable: may decide a search.
        shown_in: "progress": progress bar and table of trials; "summary": the line of scores at the end of a command;
            "trials": reports and columns of a search; "benchmark": tables of a benchmark.
    """

    name: str
    direction: Direction | None
    meaning: str
    group: Group = "types"
    label: str = ""
    needs_labels: bool = False
    needs_arms: bool = False
    searchable: bool = False
    shown_in: tuple[ShownIn, ...] = ()

    def __post_init__(self) -> None:
        if self.searchable and self.direction is None:
            raise ValueError(f"The metric {self.name} cannot decide a search without a direction.")
        if not self.label:
            object.__setattr__(self, "label", self.name)


METRICS: dict[str, Metric] = {}
"""Metrics by name, in the order in which they are shown."""


def register_metric(metric: Metric) -> Metric:
    """Add a metric to the registry.

    Raises:
        ValueError: the name is taken.
    """
    if metric.name in METRICS:
        raise ValueError(f"There already is a metric {metric.name}.")
    METRICS[metric.name] = metric
    return metric


def find_metric(name: str) -> Metric | None:
    """The metric of a column or key, with or without ``val_``; None where it is no metric."""
    return METRICS.get(name) or METRICS.get(name.removeprefix("val_"))


def label_of(name: str) -> str:
    """The label of a metric; the name itself where it is none."""
    return METRICS[name].label if name in METRICS else name


def mode_of(name: str) -> Direction:
    """The direction of a metric.

    Raises:
        ValueError: it has none.
    """
    direction = METRICS[name].direction
    if direction is None:
        raise ValueError(f"The metric {name} has no direction.")
    return direction


def names_in(place: ShownIn) -> tuple[str, ...]:
    """Names of the metrics that are shown in a place."""
    return tuple(metric.name for metric in METRICS.values() if place in metric.shown_in)


def searchable_names() -> tuple[str, ...]:
    """Names of the metrics that may decide a search."""
    return tuple(metric.name for metric in METRICS.values() if metric.searchable)


def markdown_table(group: str) -> str:
    """The metrics of a group as a Markdown table."""
    lines = ["| name | better | meaning |", "|---|---|---|"]
    for metric in METRICS.values():
        if metric.group == group:
            meaning = metric.meaning.replace("|", "\\|")
            lines.append(f"| `{metric.name}` | {metric.direction or '-'} | {meaning} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    """A Markdown page with the table between ``<!-- metrics: GROUP -->`` and ``<!-- end -->`` updated."""
    return re.sub(
        r"(<!-- metrics: (\w+) -->\n).*?(\n<!-- end -->)",
        lambda found: f"{found[1]}{markdown_table(found[2])}{found[3]}",
        page,
        flags=re.DOTALL,
    )


for _metric in (
    Metric(
        "acc",
        "max",
        "Hungarian accuracy: share of cells whose category corresponds to their type, under the one-to-one "
        "matching of categories and types that maximises this share. Cells in unmatched types or categories count "
        "as wrong; 1 is perfect.",
        label="ACC",
        needs_labels=True,
        searchable=True,
        shown_in=("progress", "summary", "trials", "benchmark"),
    ),
    Metric(
        "acc_of_arms",
        "max",
        "`acc` of the categories of each arm alone, mean over arms, as the paper reports it.",
        label="ACC of arms",
        needs_labels=True,
    ),
    Metric(
        "ari",
        "max",
        "Adjusted Rand index: agreement on pairs of cells (same group or different groups) between categories and "
        "labels, corrected for chance. 1 is perfect, 0 is chance.",
        label="ARI",
        needs_labels=True,
        searchable=True,
        shown_in=("summary", "trials", "benchmark"),
    ),
    Metric(
        "nmi",
        "max",
        "Normalised mutual information between categories and types, normalised by the arithmetic mean of the "
        "entropies. 1 is perfect.",
        label="NMI",
        needs_labels=True,
        searchable=True,
        shown_in=("summary", "trials", "benchmark"),
    ),
    Metric(
        "ece",
        "min",
        "Expected calibration error of the confidence: mean over cells of |mean confidence - share correct| of their "
        "bin, of 15 bins of equal width. Which cells are correct is as in `acc`. 0 is perfect.",
        label="ECE",
        needs_labels=True,
    ),
    Metric(
        "ece_uncalibrated",
        "min",
        "`ece` of the largest probability of the consensus, before calibration. Absent where nothing is calibrated.",
        label="ECE of probabilities",
        needs_labels=True,
    ),
    Metric(
        "error_auc",
        "max",
        "Area under the ROC curve with which low confidence predicts that a cell is not correct. 1 is perfect, 0.5 is "
        "chance. Absent if all cells or none are correct.",
        label="AUC of errors",
        needs_labels=True,
    ),
    Metric(
        "uncertain",
        None,
        "Share of cells that are marked as uncertain: two arms name different categories, or the confidence is below "
        "0.5.",
    ),
    Metric(
        "agreement",
        "max",
        "Adjusted Rand index between the categories of two arms, mean over pairs: consensus corrected for chance, "
        "0 if one category contains all cells. Absent with a single arm.",
        needs_arms=True,
        searchable=True,
        shown_in=("trials", "benchmark"),
    ),
    Metric(
        "consensus",
        "max",
        "Share of cells to which two arms assign the same category, mean over pairs of arms; 1 with a single arm.",
        needs_arms=True,
        searchable=True,
        shown_in=("progress", "summary", "trials", "benchmark"),
    ),
    Metric(
        "amp",
        "max",
        "Mean over cells of the largest probability of the consensus. It is at least 1/K; its maximum depends on tau: "
        "e/(e+K-1) at tau = 1, and near 1 at small tau. The tempered posterior and the consensus make it incomparable "
        "with published values of this name.",
        label="AMP",
        shown_in=("summary", "trials"),
    ),
    Metric(
        "kl_qc_pc",
        None,
        "KL(q(c) || p(c)) in nats: divergence of the mean posterior over cells from the uniform prior. 0 if all "
        "categories are used equally, log K if one category contains all cells; the best value depends on the true "
        "abundances.",
        label="KL(q(c)||p(c))",
        shown_in=("summary", "trials"),
    ),
    Metric(
        "populated",
        None,
        "Number of categories that are the most probable one of at least one cell.",
        shown_in=("progress", "summary", "trials", "benchmark"),
    ),
    Metric(
        "state_rho",
        "max",
        "The largest absolute Spearman correlation between one coordinate of the inferred state and the known "
        "state, inside each known type; mean over types, weighted by their numbers of cells. 1 is perfect.",
        group="states",
        label="state rho",
        needs_labels=True,
        shown_in=("summary",),
    ),
    Metric(
        "state_ridge",
        "max",
        "The same with all coordinates together: ridge regression on the ranks of the known state, with each fifth "
        "of the cells of a type predicted from the other four; Spearman correlation of prediction and truth. "
        "Invariant to rotation of the inferred state; 1 is perfect, 0 is chance.",
        group="states",
        label="state ridge",
        needs_labels=True,
        shown_in=("summary",),
    ),
    Metric(
        "state_rho_in_categories",
        "max",
        "`state_rho` inside the inferred categories instead of the known types; available without labels.",
        group="states",
        label="state rho in categories",
        shown_in=("summary",),
    ),
    Metric(
        "state_ridge_in_categories",
        "max",
        "`state_ridge` inside the inferred categories instead of the known types; available without labels.",
        group="states",
        label="state ridge in categories",
        shown_in=("summary",),
    ),
    Metric(
        "state_types", None, "Number of types included in the scores of the state.", group="states", needs_labels=True
    ),
    Metric(
        "state_cells", None, "Number of cells included in the scores of the state.", group="states", needs_labels=True
    ),
    Metric(
        "batch_entropy",
        None,
        "Entropy of the batches in a category divided by that of the batches of all cells, mean over cells. 1 if every "
        "category contains the batches in the shares that all cells have, 0 if each consists of one batch. Types that "
        "some batches lack lower it too.",
        group="batches",
        label="batch entropy",
        shown_in=("summary",),
    ),
    Metric(
        "batch_auc_category",
        None,
        "Area under the ROC curve with which the posterior predicts the batch of a cell (ridge regression, "
        "cross-validated over five folds), mean over batches. 0.5 is chance, 1 means that the categories name the "
        "batch; it is a little below 0.5 where the batches are mixed more evenly than at random. Types that some "
        "batches lack raise it too.",
        group="batches",
        label="batch AUC of categories",
        shown_in=("summary",),
    ),
    Metric(
        "batch_auc_state",
        "min",
        "The same for the state inside each category, mean over categories, weighted by their numbers of cells. 0.5 is "
        "chance. Absent if no category contains ten cells of each of two batches.",
        group="batches",
        label="batch AUC of states",
        shown_in=("summary",),
    ),
    Metric(
        "disentanglement",
        "max",
        "Disentanglement score (DS) of Kim and Mnih (2018): share of votes from which the fixed factor is "
        "predicted correctly. Only for data with known factors, such as dSprites: 1 is perfect, 1/5 is chance for "
        "its five factors.",
        group="states",
        label="DS",
        shown_in=("summary",),
    ),
    Metric(
        "reconstruction",
        "min",
        "L_rec: minus log p(x|s,c) in nats per cell, at the mean state and the posterior, mean over arms. "
        "Comparable only for the same data set and likelihood.",
        label="L_rec",
        searchable=True,
        shown_in=("summary", "trials"),
    ),
    Metric(
        "seconds",
        "min",
        "Training time in seconds; for other methods, the time of preparation and clustering.",
        group="run",
    ),
    Metric(
        "step_ms",
        "min",
        "Milliseconds per step, including the scores and checkpoints between steps, without the first tenth of the "
        "steps.",
        group="run",
    ),
    Metric(
        "coupling_wait_ms",
        "min",
        "Milliseconds per step that a worker waited for the sum over arms, for the worker that waited most; 0 if "
        "all arms are in one process.",
        group="run",
    ),
    Metric(
        "coupling_bytes",
        "min",
        "Bytes that a worker sends to the others per step: 4 (n K + 1), whatever the number of arms.",
        group="run",
    ),
    Metric(
        "restarts",
        "min",
        "Number of automatic restarts after the loss of a worker or a machine (`--max-failures`).",
        group="run",
    ),
    Metric(
        "lost_steps",
        "min",
        "Number of steps that were repeated after restarts, as far as the remaining workers could report.",
        group="run",
    ),
    Metric(
        "missed_checkpoints",
        "min",
        "Number of checkpoints that could not be written since the run was started or resumed, because the disk "
        "was full or failed.",
        group="run",
    ),
    Metric(
        "type_kept",
        "max",
        "Share of copies for which a classifier predicts the same type as for the cell itself. The classifier is a "
        "small network trained on the labels of the training cells; the augmenter receives no labels.",
        group="augmenter",
        needs_labels=True,
    ),
    Metric(
        "type_true",
        "max",
        "Share of copies for which the classifier predicts the known type of the cell.",
        group="augmenter",
        needs_labels=True,
    ),
    Metric("noise_free_kept", "max", "`type_kept` of the noise-free copies.", group="augmenter", needs_labels=True),
    Metric(
        "classifier_accuracy",
        "max",
        "Share of the cells themselves for which the classifier predicts the known type.",
        group="augmenter",
        needs_labels=True,
    ),
    Metric("copy_distance", None, "Mean of ||x - copy|| / ||x||.", group="augmenter"),
    Metric("noise_free_distance", None, "`copy_distance` of the noise-free copies.", group="augmenter"),
    Metric("copy_diversity", None, "Mean distance between two copies of one cell.", group="augmenter"),
    Metric("distance_any", None, "Mean distance between two cells.", group="augmenter"),
    Metric(
        "distance_within", None, "Mean distance between two cells of one type.", group="augmenter", needs_labels=True
    ),
    Metric(
        "distance_between",
        None,
        "Mean distance between two cells of different types.",
        group="augmenter",
        needs_labels=True,
    ),
    Metric("diversity_any", None, "`copy_diversity` divided by `distance_any`.", group="augmenter"),
    Metric(
        "diversity_within", None, "`copy_diversity` divided by `distance_within`.", group="augmenter", needs_labels=True
    ),
    Metric(
        "diversity_between",
        None,
        "`copy_diversity` divided by `distance_between`.",
        group="augmenter",
        needs_labels=True,
    ),
    Metric(
        "val_loss",
        "min",
        "reconstruction + beta KL(q(s|c,x) || p(s|c)) - H(c|x) of Eq. 7 in nats per cell, over the validation "
        "cells without augmentation or sampling, mean over arms. The coupling is left out, so that runs with "
        "different couplings can be compared.",
        group="benchmark",
    ),
    Metric(
        "batch_nmi",
        "min",
        "Normalised mutual information between categories and batches, normalised by the arithmetic mean of the "
        "entropies. 0 if no category says anything of the batch; the least possible is more if batches differ in the "
        "abundances of types.",
        group="benchmark",
        label="NMI with batch",
    ),
    Metric(
        "ilisi",
        "max",
        "Integration LISI of scib-metrics: effective number of batches among the 90 nearest cells of a cell, median "
        "over cells, scaled to 0 (one batch) to 1 (all batches equally).",
        group="benchmark",
        label="iLISI",
    ),
    Metric(
        "clisi",
        "max",
        "Cell-type LISI of scib-metrics: the same with types instead of batches, scaled to 1 (one type) to 0 (all "
        "types equally).",
        group="benchmark",
        label="cLISI",
        needs_labels=True,
    ),
    Metric(
        "kbet",
        "max",
        "kBET of scib-metrics: share of the cells of a type whose neighbors within the type have the same batches as "
        "the type, by a chi-squared test at 0.05; mean over the types that have two batches.",
        group="benchmark",
        label="kBET",
        needs_labels=True,
    ),
    Metric(
        "bras",
        "max",
        "Batch removal adapted silhouette of scib-metrics: 1 minus the absolute silhouette width of the batches inside "
        "a type, mean over types. 1 if batches are at no greater distance than the cells of one batch.",
        group="benchmark",
        label="BRAS",
        needs_labels=True,
    ),
    Metric(
        "graph_connectivity",
        "max",
        "Graph connectivity of scib-metrics: share of the cells of a type that are connected through neighbors of the "
        "same type (15 for each cell), mean over types. 1 if no type falls into parts.",
        group="benchmark",
        label="graph connectivity",
        needs_labels=True,
    ),
    Metric(
        "seed_agreement",
        "max",
        "Adjusted Rand index between the categories of two runs with other seeds and the same settings, mean over "
        "pairs. `bench rank` computes it for each run, from the categories that the runs saved in `--out`: the mean "
        "over the other seeds.",
        group="seeds",
    ),
    Metric(
        "stability",
        "max",
        'Share of the seeds in which a cell has its category of the consensus (`obs["cplmix_stability"]`), mean over '
        "cells.",
        group="seeds",
        shown_in=("summary",),
    ),
    *(
        Metric(
            f"{of}{name}_of_runs", "max", f"`{name}` of a single run, {how} seeds.", group="seeds", needs_labels=True
        )
        for name in ("acc", "ari", "nmi")
        for of, how in (("", "mean over"), ("lowest_", "the lowest of all"))
    ),
):
    register_metric(_metric)


if __name__ == "__main__":
    _page = Path(sys.argv[1])
    _page.write_text(with_tables(_page.read_text(encoding="utf-8")), encoding="utf-8")
