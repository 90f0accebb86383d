"""`python -m cplmix_ray.predict`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cplmix_ray.cli.output_paths import output_h5ad
from cplmix_ray.cli.parser import Flag, loading, parse_line
from cplmix_ray.cli.score_line import score_line
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_file
from cplmix_ray.utils.progress import shown_check


@dataclass(frozen=True)
class Predict:
    """Assign categories and states to cells with a trained model; the genes must have the same names as in training."""

    run: str
    """Folder of the run, as given to train with --out."""
    data: str
    """Cells or images to annotate, in any format that train reads; this file is not changed."""
    out: str
    """.h5ad file to write: the cells with the results added."""
    layer: str | None = None
    """Layer of the .h5ad to read, 'raw' or 'X'; default: the one used in training."""
    backed: Literal["auto", "yes", "no"] = "auto"
    """Keep the matrix of an .h5ad on disk, as for train; the output file then does not contain it."""
    metadata: str | None = None
    """CSV file with one row per cell, as for train; cells without a row are excluded."""
    subset: int | None = None
    """Annotate only this many cells, drawn with the seed of the run; default: all."""
    key_added: str = "cplmix"
    """Prefix of the added names: obs <key>_category, <key>_confidence, <key>_max_prob, <key>_uncertain and
    <key>_novelty, obsm X_<key> and <key>_probs."""
    unknown: Flag = False
    """Give cells with a novelty above 1, which 1 % of the validation cells have, the category 'unknown'."""


def predict(args: list[str]) -> None:
    """Infer, add the results, write the file, and print its path."""
    command = parse_line(Predict, args, "predict")
    out = output_h5ad(command.out)
    if os.path.exists(out) and os.path.exists(command.data) and out.samefile(command.data):
        raise InputError(f"--out {out} is also the input file, which must not be overwritten; give another path.")
    with lock_file(out):
        _predict(command, out)


def _predict(command: Predict, out: Path) -> None:
    with loading():
        from cplmix_ray.data.io.csv_cells import is_table
        from cplmix_ray.data.io.read import read_source
        from cplmix_ray.data.io.write_h5ad import write_cells
        from cplmix_ray.evaluation.trained_model import TrainedModel
        from cplmix_ray.runs.results import annotate, with_unknown

    model = TrainedModel.load(command.run)
    layer = command.layer if command.layer is not None or is_table(command.data) else model.config.input.layer
    subset, seed, backed = command.subset, model.config.seed, command.backed
    source = read_source(command.data, layer, None, subset, seed, command.metadata, (), backed, shown_check())
    for note in (*source.notes, *model.notes(source)):
        print(note)
    family = model.family
    wanted = [name for name, output in family.outputs.items() if output.predicted]
    prepared = model.prepare(source)
    outputs = model.compared(prepared, model.infer(prepared, wanted))
    if command.unknown and "novelty_n" not in outputs:
        raise InputError(
            f"--unknown needs the novelty of cells, and the model of {command.run} has no reference cells; leave it "
            f"out, or train the model again (cells only)."
        )
    remarks = family.cell_remarks(outputs, source.adata.obs, model.config)  # of the file as it was given
    scores = family.unlabelled_scores(outputs)
    annotate(source.adata, outputs, model, scores, command.key_added)
    if command.unknown:
        with_unknown(source.adata, command.key_added)
    write_cells(out, source.adata)
    if source.matrix.note is not None:
        print(source.matrix.note)
    line = score_line(f"{source.n_cells} cells", scores)
    if line:
        print(line)
    for remark in (*family.cell_counts(outputs), *remarks):
        print(remark)
    added = [f"{place}['{name}']" for place in ("obs", "obsm") for name in getattr(source.adata, place)]
    print(f"Results are in {out}: {', '.join(name for name in added if command.key_added in name)}.")
