"""Runs with several seeds on the same cells, and their consensus."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cplmix_ray.analysis.stability import SeedConsensus, consensus_of_seeds, stability_table
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.checkpoints.seeds_folder import SeedsFolder
from cplmix_ray.config import RunConfig, load_config
from cplmix_ray.data.covariates import batches_of
from cplmix_ray.data.io.h5ad import read_annotations
from cplmix_ray.data.io.write_h5ad import write_cells
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.metrics.calibration import calibration_scores
from cplmix_ray.metrics.category_scores import label_scores, posterior_scores
from cplmix_ray.models.registry import family_of
from cplmix_ray.runs.fingerprint import data_fingerprint, fingerprint_in
from cplmix_ray.runs.results import annotated
from cplmix_ray.runs.resume import changed_settings
from cplmix_ray.runs.run import RunResult
from cplmix_ray.utils.errors import InputError

LABEL_SCORES = ("acc", "ari", "nmi")


def require_seeds(folder: SeedsFolder, config: RunConfig, n_seeds: int, resume: bool) -> None:
    """Check that several runs can be made or continued in a folder.

    Raises:
        InputError: they cannot.
    """
    folder.require_room(resume)
    if folder.n_seeds() is None and folder.checkpoints.exists():
        raise InputError(f"{folder.path} is the folder of a single run; choose another --out for --seeds.")
    if "probs_nk" not in family_of(config).outputs:
        raise InputError(f"--seeds compares categories, and the model family {config.family} has none; leave it out.")
    if config.input.subset is not None:
        raise InputError(
            "--subset draws other cells with every seed, and --seeds compares the same cells; leave out one of the two."
        )
    if config.seed + n_seeds > 2**32:
        raise InputError(f"--seed {config.seed} is too large for {n_seeds} seeds; all must be less than 2^32.")
    if resume and folder.config.exists():
        changed = changed_settings(load_config(folder.config), config)
        if changed:
            raise InputError(
                f"The runs in {folder.path} have other settings for {', '.join(changed)}; resume them with the same "
                f"settings."
            )


def ended_probabilities(folder: RunFolder, config: RunConfig, source: Source) -> np.ndarray | None:
    """The posteriors that a run has written, shape (n, K); None if it has not ended.

    Raises:
        InputError: the run was trained on other cells.
    """
    if not (folder.result.exists() and folder.metrics.exists()):
        return None
    result = read_annotations(folder.result, ("obsm", "uns"))
    kept = fingerprint_in(result.uns)
    if kept is None:  # written by a version without fingerprints
        return None
    # Those of the result and not of config.yaml, which a longer run replaces when it starts.
    done, given = json.loads(kept["settings"]), config.training
    if (done.get("training.max_steps"), done.get("training.epochs")) != (given.max_steps, given.epochs):
        return None
    if kept["data"] != data_fingerprint(source, config):
        raise InputError(
            f"The run in {folder.path} was trained on other cells than {source.name}; choose another --out."
        )
    return np.asarray(result.obsm["cplmix_probs"])


def write_consensus(
    folder: SeedsFolder, source: Source, config: RunConfig, probs_s: Sequence[np.ndarray]
) -> tuple[RunResult, pd.DataFrame]:
    """Write the consensus of the runs: result.h5ad, metrics.json and stability.csv.

    Args:
        probs_s: posteriors of each run, shape (n, K), in the order of the seeds.

    Returns:
        The result, with the medoid as its model, and the table of the categories.
    """
    seeds = [config.seed + number for number in range(len(probs_s))]
    found = consensus_of_seeds(probs_s)
    model = TrainedModel.load(folder.run(seeds[found.medoid]).path)
    wanted = [name for name, output in model.family.outputs.items() if output.predicted]
    cells = model.prepare(source)
    outputs = {**model.infer(cells, wanted), "probs_nk": found.probs_nk.astype(np.float32)}
    outputs = model.compared(cells, outputs, new=False)  # the categories have the numbers of the medoid
    facts = {
        "steps": model.step,
        "n_cells": source.n_cells,
        **model.family.facts(model.config),
        "n_seeds": len(seeds),
        "seed": config.seed,
        "medoid": seeds[found.medoid],
    }
    runs = [json.loads(folder.run(seed).metrics.read_text(encoding="utf-8")) for seed in seeds]
    run = RunResult({**_scores(found, outputs.get("confidence_n"), source.labels_n, runs), **facts}, model, outputs)
    result, table = annotated(source, run), stability_table(found)
    result.obs["cplmix_stability"] = found.stability_n.astype(np.float32)
    result.uns["cplmix_ray"] |= {"seeds": seeds, "medoid": seeds[found.medoid]}
    result.uns["cplmix_ray"]["fingerprint"]["seed"] = f"{seeds[0]} to {seeds[-1]}"
    write_cells(folder.result, result)
    folder.write_table("stability", table)
    batch_n = batches_of(source.adata.obs, config.input.batch_key)
    for name, each in model.family.cell_tables(outputs, source.labels_n, batch_n).items():
        folder.write_table(name, each)
    folder.write_metrics(run.metrics)
    folder.keep(config, len(seeds), seeds[found.medoid])
    return run, table


def _scores(
    found: SeedConsensus,
    confidence_n: np.ndarray | None,
    labels_n: np.ndarray | None,
    runs: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    scores = {} if labels_n is None else label_scores(labels_n, found.category_n)
    if labels_n is not None:
        scores |= calibration_scores(labels_n, found.probs_nk, confidence_n)
    scores |= posterior_scores(found.probs_nk)
    scores |= {"seed_agreement": found.agreement, "stability": float(found.stability_n.mean())}
    for name in LABEL_SCORES:
        if all(name in each for each in runs):
            values = [each[name] for each in runs]
            scores |= {f"{name}_of_runs": float(np.mean(values)), f"lowest_{name}_of_runs": min(values)}
    return scores


def stability_remarks(table: pd.DataFrame, n_seeds: int) -> list[str]:
    """A sentence that names the categories that come back in fewer than half of the seeds."""
    rare = table[table["recovered"] < 0.5]
    if rare.empty:
        return [f"All categories with cells come back in at least half of the {n_seeds} seeds."]
    names = [
        f"{row.category} ({row.cells} cells, {row.recovered * n_seeds:.0f} of {n_seeds})" for row in rare.itertuples()
    ]
    return [
        f"These categories come back in fewer than half of the seeds: {', '.join(names)}; other seeds divide their "
        f"cells in another way, so check their marker genes, or try a smaller --n-categories."
    ]
