"""`cplmix compare` and `python -m cplmix_ray.compare`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from cplmix_ray.cli.parser import loading, parse_line
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_file

if TYPE_CHECKING:
    import anndata
    import pandas as pd


@dataclass(frozen=True)
class Compare:
    """Compare the categories of two results on the same cells, which are matched by name."""

    a: tyro.conf.Positional[str]
    """Folder of a run, or .h5ad file."""
    b: tyro.conf.Positional[str]
    """Folder of another run, or .h5ad file."""
    key: str = "cplmix_category"
    """Column of obs with the categories."""
    key_b: str | None = None
    """Column of obs of the second, such as known types; default: as --key."""
    out: str | None = None
    """CSV file to write: a row for each category, with its partner and where its other cells are; default: compare.csv
    in the folder of the first."""


def compare(args: list[str]) -> None:
    """Compare, write the table, and print the agreement, the fingerprints, and the path of the table."""
    command = parse_line(Compare, args, "compare")
    folder = Path(command.a) if Path(command.a).is_dir() else Path(command.a).parent
    out = Path(command.out) if command.out else folder / "compare.csv"
    paths = [_result_of(each) for each in (command.a, command.b)]
    with lock_file(out):
        _compare(command, paths, out)


def _compare(command: Compare, paths: list[Path], out: Path) -> None:
    with loading():
        from cplmix_ray.analysis.comparison import compare_categories
        from cplmix_ray.data.io.h5ad import read_annotations
        from cplmix_ray.utils.durable import write_whole

    key_b = command.key if command.key_b is None else command.key_b
    first, second = (read_annotations(path, ("uns",)) for path in paths)
    a, b = _column(first, command.key, command.a, "--key"), _column(second, key_b, command.b, "--key-b")
    found = compare_categories(a, b, command.a, command.b)
    table = found.table
    write_whole(out, lambda path: table.to_csv(path, index=False, float_format="%.4f", lineterminator="\n"))
    left = [(len(each) - found.n_cells, name) for each, name in ((a, command.a), (b, command.b))]
    print(", ".join([f"{found.n_cells} cells in both", *(f"{n} only in {name}" for n, name in left if n)]) + ".")
    print(
        f"ARI {found.ari:.4g}, AMI {found.ami:.4g}; {100 * found.stay:.1f} % of the cells are in matched categories; "
        f"Jaccard index of the categories {table['jaccard'].min():.2f} to {table['jaccard'].max():.2f}."
    )
    print(_fingerprints(first, second))
    print(f"Results are in {out}.")


def _result_of(given: str) -> Path:
    """The .h5ad file of a run folder, or the file itself.

    Raises:
        InputError: there is none.
    """
    path = Path(given)
    if path.is_dir():
        path = path / "result.h5ad"
        if not path.exists():
            raise InputError(f"{given} contains no result.h5ad; give the folder of a run that has ended, or a .h5ad.")
    elif not path.exists():
        raise InputError(f"{given} does not exist; give the folder of a run, or a .h5ad file.")
    return path


def _column(adata: "anndata.AnnData", key: str, name: str, option: str) -> "pd.Series":
    if key not in adata.obs:
        raise InputError(f"{name} has no column '{key}' in obs; give one of {', '.join(adata.obs)} with {option}.")
    return adata.obs[key]


def _fingerprints(first: "anndata.AnnData", second: "anndata.AnnData") -> str:
    """A sentence on the data, settings, versions and seeds of both."""
    from cplmix_ray.runs.fingerprint import differences, fingerprint_in

    a, b = fingerprint_in(first.uns), fingerprint_in(second.uns)
    if a is None or b is None:
        return "Fingerprints cannot be compared, as not both results have one."
    found = differences(a, b)
    return f"Fingerprints differ in {', '.join(found)}." if found else "Fingerprints are the same."
