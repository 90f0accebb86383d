"""`python -m cplmix_ray.splits`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cplmix_ray.cli.parser import loading, parse_line
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_file
from cplmix_ray.utils.progress import shown_check

_SHOWN = 10
"""Pairs that are printed; the table has all."""


@dataclass(frozen=True)
class Splits:
    """Test which categories are separate types: whether there is a gap between neighbouring categories.

    For the categories of a trained model:
    python -m cplmix_ray.splits --run my_run

    For the clusters of any other tool, in a column of obs:
    python -m cplmix_ray.splits --data cells.h5ad --key leiden
    """

    run: str | None = None
    """Folder of a run, as given to train with --out."""
    data: str | None = None
    """Cells, in any format that train reads; default: those of the run."""
    key: str | None = None
    """Column of obs whose values are tested in place of the categories of the model, such as leiden."""
    batch_key: str | None = None
    """Column of obs with the batch of each cell, within which cells are compared; with --run, it is that of the run."""
    layer: str | None = None
    """Layer of the .h5ad to read, 'raw' or 'X'; default: the one used in training, or X."""
    backed: Literal["auto", "yes", "no"] = "auto"
    """Keep the matrix of an .h5ad on disk, as for train."""
    out: str | None = None
    """CSV file to write; default: splits.csv in the folder of the run, or <data>-splits.csv in the current folder."""


def splits(args: list[str]) -> None:
    """Test all pairs of neighbouring categories, write the table, and print which are not separated."""
    command = parse_line(Splits, args, "splits")
    if command.run is None and (command.data is None or command.key is None):
        raise InputError("--run is not given; give the folder of a run, or cells with --data and their column --key.")
    if command.run is not None and command.batch_key is not None:
        raise InputError("--batch-key is that of the run with --run; leave it out.")
    folder = Path() if command.run is None else Path(command.run)
    default = "splits.csv" if command.run is not None else f"{Path(str(command.data)).stem}-splits.csv"
    out = Path(command.out) if command.out else folder / default
    with lock_file(out):
        _test(command, out)


def _test(command: Splits, out: Path) -> None:
    with loading():
        from cplmix_ray.analysis.splits import NOT_SEPARATED, cells_of_column, cells_of_run, split_table
        from cplmix_ray.data.io.csv_cells import is_table
        from cplmix_ray.data.io.read import read_source
        from cplmix_ray.evaluation.trained_model import TrainedModel
        from cplmix_ray.utils.durable import write_whole

    if command.run is None:
        source = read_source(str(command.data), command.layer, backed=command.backed, show=shown_check())
        cells, notes = cells_of_column(source, str(command.key), command.batch_key)
        seed = 0
    else:
        model = TrainedModel.load(command.run)
        given, own, seed = model.config.input, command.data is None, model.config.seed
        name = given.data if own else str(command.data)
        layer = command.layer if command.layer is not None or is_table(name) else given.layer
        subset, metadata = (given.subset, given.metadata) if own else (None, None)
        source = read_source(name, layer, None, subset, seed, metadata, (), command.backed, shown_check())
        cells, notes = cells_of_run(model, source, command.key), tuple(model.notes(source))
    for note in (*source.notes, *notes):
        print(note)
    table = split_table(cells, source.name, seed)
    write_whole(out, lambda path: table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n"))
    not_separated = table[table["verdict"] == NOT_SEPARATED]
    print(f"{len(table)} pairs of neighbouring categories, {len(not_separated)} of them not separated.")
    for row in not_separated.head(_SHOWN).itertuples():
        print(
            f"{row.category_1} ({row.n_1:,} cells) and {row.category_2} ({row.n_2:,}): adjusted p-value "
            f"{row.p_adjusted:.2g}, {row.deviations:.1f} standard deviations apart."
        )
    if len(not_separated) > _SHOWN:
        print(f"And {len(not_separated) - _SHOWN} more.")
    if len(not_separated):
        print(
            "Such a pair may be one type, or too few cells to tell; to join it, train with a lower --n-categories, or "
            "remove categories with cplmix prune."
        )
    print(f"Results are in {out}.")
