"""`python -m cplmix_ray.de`."""

from dataclasses import dataclass
from pathlib import Path

from cplmix_ray.cli.parser import loading, parse_line
from cplmix_ray.utils.output_lock import lock_file
from cplmix_ray.utils.progress import shown_check


@dataclass(frozen=True)
class DifferentialExpression:
    """Find the genes that differ between two conditions inside each category of a trained model."""

    run: str
    """Folder of the run, as given to train with --out."""
    groupby: str
    """Column of obs with the condition of each cell."""
    group1: str
    """Value of that column, such as stim."""
    group2: str
    """Value that it is compared with, such as ctrl; a gene that is higher in group1 has a positive fold change."""
    data: str | None = None
    """Cells to compare, in any format that train reads; default: those of the run."""
    layer: str | None = None
    """Layer of the .h5ad to read, 'raw' or 'X'; default: the one used in training."""
    within: str | None = None
    """Column of obs whose values are used in place of the categories of the model, such as known cell types."""
    sample_key: str | None = None
    """Column of obs with the donor or sample of each cell. Samples are then compared too, by the sums over their cells:
    a test of cells takes differences between donors for effects of the condition."""
    out: str | None = None
    """CSV file to write; default: differential_expression.csv in the folder of the run."""


def de(args: list[str]) -> None:
    """Compare both groups in every category, write the table, and print its path."""
    command = parse_line(DifferentialExpression, args, "de")
    out = Path(command.out) if command.out else Path(command.run) / "differential_expression.csv"
    with lock_file(out):
        _compare(command, out)


def _compare(command: DifferentialExpression, out: Path) -> None:
    with loading():
        from cplmix_ray.analysis.differential_expression import Comparison, differential_expression
        from cplmix_ray.data.io.csv_cells import is_table
        from cplmix_ray.data.io.read import read_source
        from cplmix_ray.evaluation.trained_model import TrainedModel
        from cplmix_ray.utils.durable import write_whole

    model = TrainedModel.load(command.run)
    given, own = model.config.input, command.data is None
    name = given.data if own else str(command.data)
    layer = command.layer if command.layer is not None or is_table(name) else given.layer
    subset, metadata = (given.subset, given.metadata) if own else (None, None)
    source = read_source(name, layer, None, subset, model.config.seed, metadata, (), "auto", shown_check())
    comparison = Comparison(command.groupby, command.group1, command.group2, command.within, command.sample_key)
    table, notes = differential_expression(model, source, comparison)
    for note in (*source.notes, *model.notes(source), *notes):
        print(note)
    for category, part in table.groupby("category", sort=False, observed=True):
        n_found, first = int((part["p_adjusted"] < 0.05).sum()), ", ".join(part["gene"].iloc[:5])
        print(f"{category}: {n_found:,} genes with an adjusted p-value below 0.05; first {first}.")
    write_whole(out, lambda path: table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n"))
    print(f"Results are in {out}.")
