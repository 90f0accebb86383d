"""`python -m cplmix_ray.evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cplmix_ray.cli.parser import loading, parse_line
from cplmix_ray.cli.score_line import score_line
from cplmix_ray.config import load_config
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_file
from cplmix_ray.utils.progress import shown_check


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a trained model: agreement of its categories with known types, and between its arms."""

    run: str
    """Folder of the run, as given to train with --out."""
    config: str | None = None
    """YAML file whose section input defines the data; default: the settings of the run."""
    data: str | None = None
    """Cells or images to evaluate on; default: those of the run."""
    layer: str | None = None
    """Layer of the .h5ad to read, 'raw' or 'X'; default: the one used in training."""
    backed: Literal["auto", "yes", "no"] = "auto"
    """Keep the matrix of an .h5ad on disk, as for train."""
    labels_key: str | None = None
    """Column of obs with known types; without it, only scores that do not require labels are computed."""
    metadata: str | None = None
    """CSV file with one row per cell, as for train; with --data, none unless given here."""
    state_key: tuple[str, ...] = ()
    """Columns of obs with a known continuous state, with which the inferred state is compared inside each type."""
    subset: int | None = None
    """Use only this many cells, drawn with the seed of the run; default: as in the run, or all with --data."""
    out: str | None = None
    """JSON file for the scores; default: evaluation.json in the folder of the run."""


def evaluate(args: list[str]) -> None:
    """Infer, evaluate the consensus and every arm, write the scores, and print their path."""
    command = parse_line(Evaluate, args, "evaluate")
    out = Path(command.out) if command.out else Path(command.run) / "evaluation.json"
    with lock_file(out):
        _evaluate(command, out)


def _evaluate(command: Evaluate, out: Path) -> None:
    with loading():
        from cplmix_ray.data.covariates import batches_of
        from cplmix_ray.data.io.csv_cells import is_table
        from cplmix_ray.data.io.read import read_source
        from cplmix_ray.evaluation.trained_model import TrainedModel
        from cplmix_ray.utils.durable import write_json

    model = TrainedModel.load(command.run)
    given = load_config(command.config).input if command.config else model.config.input
    own = command.data is None
    labels_key = command.labels_key if command.labels_key is not None or not own else given.labels_key
    subset = command.subset if command.subset is not None or not own else given.subset
    metadata = command.metadata if command.metadata is not None or not own else given.metadata
    state_key = command.state_key or (given.state_key if own else ())
    name, seed = given.data if own else str(command.data), model.config.seed
    layer = command.layer if command.layer is not None or is_table(name) else given.layer
    source = read_source(name, layer, labels_key, subset, seed, metadata, state_key, command.backed, shown_check())
    if source.n_cells == 0:
        raise InputError(f"{source.name} contains no cells.")
    family = model.family
    prepared = model.prepare(source)
    outputs = model.compared(prepared, model.infer(prepared), new=not own)
    consensus, units = family.scores(outputs, source, model.config)
    n_features = sum(len(preparation.var_names) for preparation in model.preparations.values())
    print(f"{source.name}: {source.n_cells} cells, {n_features} genes, step {model.step}.")
    for note in (*source.notes, *model.notes(source)):
        print(note)
    kind = family.unit[0].upper() + family.unit[1:]
    rows = [("Consensus", consensus), *((f"{kind} {unit}", scores) for unit, scores in enumerate(units))]
    for line in filter(None, (score_line(title, scores) for title, scores in rows)):
        print(line)
    by_unit = {f"{family.unit}s": units}
    for line in family.cell_counts(outputs):
        print(line)
    for line in family.cell_remarks(outputs, source.adata.obs, model.config):
        print(line)
    batch_n = batches_of(source.adata.obs, model.config.input.batch_key)
    tables = family.cell_tables(outputs, source.labels_n, batch_n)
    tree = {
        **consensus,
        "steps": model.step,
        "n_cells": source.n_cells,
        "data": source.name,
        **{name: table.to_dict("records") for name, table in tables.items()},
        **by_unit,
    }
    write_json(out, tree)
    print(f"Scores are in {out}.")
