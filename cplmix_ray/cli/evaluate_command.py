"""`python -m cplmix_ray.evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.cli.parser import parse_line
from cplmix_ray.cli.progress import shown_check
from cplmix_ray.cli.table import score_line
from cplmix_ray.config import load_config
from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class Evaluate:
    """Score a trained model: how well its categories match known types, and how well its arms agree."""

    run: str
    """Folder that train wrote with --out."""
    config: str | None = None
    """YAML file whose input section names the data; default: the run's own."""
    data: str | None = None
    """Cells or images to score; default: those the run was trained on."""
    layer: str | None = None
    """Layer of the .h5ad to read in place of X."""
    backed: Literal["auto", "yes", "no"] = "auto"
    """Leave the matrix of an .h5ad on disk, as for train."""
    labels_key: str | None = None
    """Column of obs with known types; without it, only scores that need no labels."""
    metadata: str | None = None
    """CSV file with what is known of the cells, as for train; with --data, none unless named here."""
    state_key: tuple[str, ...] = ()
    """Columns of obs with a known continuous state, which the inferred state is compared with inside each type."""
    subset: int | None = None
    """Score this many of the cells, drawn by the run's seed; default: all, or the run's own."""
    out: str | None = None
    """JSON file for the scores; default: evaluation.json in the run's folder."""


def evaluate(args: list[str]) -> None:
    """Infer, score the consensus and every arm, write the scores, and say where they are."""
    command = parse_line(Evaluate, args, "evaluate")
    with loading():
        from cplmix_ray.checkpoints.run_folder import require_writable, write_json
        from cplmix_ray.data.dataset import read_source
        from cplmix_ray.data.io.h5ad_backed import DiskUse
        from cplmix_ray.evaluation.trained_model import TrainedModel
        from cplmix_ray.metrics.disentanglement import disentanglement
        from cplmix_ray.metrics.state_scores import state_scores
        from cplmix_ray.metrics.summary import score

    model = TrainedModel.load(command.run)
    given = load_config(command.config).input if command.config else model.config.input
    own = command.data is None
    layer = command.layer if command.layer is not None or not own else given.layer
    labels_key = command.labels_key if command.labels_key is not None or not own else given.labels_key
    subset = command.subset if command.subset is not None or not own else given.subset
    out = Path(command.out) if command.out else Path(command.run) / "evaluation.json"
    require_writable(out.parent)
    metadata = command.metadata if command.metadata is not None or not own else given.metadata
    state_key = command.state_key or (given.state_key if own else ())
    name, seed = given.data if own else str(command.data), model.config.seed
    disk = DiskUse(command.backed, shown_check())
    source = read_source(name, layer, labels_key, subset, seed, metadata, state_key, disk)
    inferred = model.infer(model.values_of(source))
    consensus, arms = score(inferred.log_q_ank, inferred.probs_nk, source.labels_n)
    consensus.update(state_scores(inferred.state_nd, source.truth_nm, source.labels_n, inferred.category_n))
    consensus["reconstruction"] = sum(inferred.reconstruction) / len(inferred.reconstruction)
    if source.factors is not None:
        known = source.factors.classes_nf
        consensus |= disentanglement(inferred.state_nd, inferred.category_n, known, model.config.seed)
    if not all(arms):
        raise InputError(f"{source.name} holds no cells.")
    print(f"{source.name}: {source.n_cells} cells, {len(model.preparation.var_names)} genes, step {model.step}.")
    for note in source.notes:
        print(note)
    print(score_line("Consensus", consensus))
    for arm, scores in enumerate(arms):
        scores["reconstruction"] = inferred.reconstruction[arm]
        print(score_line(f"Arm {arm}", scores))
    tree = {**consensus, "steps": model.step, "n_cells": source.n_cells, "data": source.name, "arms": arms}
    write_json(out, tree)
    print(f"Scores are in {out}.")
