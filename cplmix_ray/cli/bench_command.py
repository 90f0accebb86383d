"""`python -m cplmix_ray.bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.cli.parser import Flag, parse_line
from cplmix_ray.cli.speed_command import Speed, speed
from cplmix_ray.utils.errors import InputError, TrainingError


@dataclass(frozen=True)
class Accuracy:
    """Run every entry of a benchmark with every seed, and add a row for each run; runs that have a row are skipped."""

    bench: tyro.conf.Positional[str]
    """YAML list of entries; see tune_configs/bench_cells.yaml."""
    out: str
    """Folder for what the runs leave: their categories, scalars and settings."""
    rows: str | None = None
    """CSV file that rows are added to; default: rows.csv in --out."""
    data_dir: str | None = None
    """Folder of data that the benchmark names by a plain path; default: CPLMIX_RAY_DATA, else the working folder."""
    seeds: tuple[int, ...] = ()
    """Seeds in place of the entries' own."""
    only: tuple[str, ...] = ()
    """Names of the entries to run; default: all."""
    workers: int = 1
    """Runs at a time, each in a process of its own."""
    threads: int = 1
    """Threads of a run."""
    keep_models: Flag = False
    """Leave the checkpoints of finished runs in --out; they take the most room."""


@dataclass(frozen=True)
class Rank:
    """Tell which scores without labels go with the accuracy: Spearman's rank correlation over the runs on each data."""

    rows: tyro.conf.Positional[str]
    """CSV file of rows."""
    runs: str | None = None
    """Folder that accuracy wrote with --out, for the agreement between seeds; default: the folder of the rows."""
    out: str | None = None
    """CSV file for the table; default: rank.csv beside the rows."""
    only: tuple[str, ...] = ()
    """Names of the entries to count; default: all."""


@dataclass(frozen=True)
class Curve:
    """Draw a score against a setting, a curve with error bars (standard deviation over runs) for each data."""

    rows: tyro.conf.Positional[str]
    """CSV file of rows."""
    x: str
    """Setting or column across, such as model.n_arms; k_off is K minus the number of types."""
    y: str = "acc"
    """Column that holds the score."""
    by: str = "data"
    """Setting or column that has a curve for each of its values, such as data, name or coupling."""
    out: str | None = None
    """Picture (.png, .pdf or .svg); default: <y>-<x>.png beside the rows."""
    method: Literal["cplmix", "kmeans", "leiden", "scvi_kmeans"] = "cplmix"
    """The method whose rows are drawn."""
    only: tuple[str, ...] = ()
    """Names of the entries to draw; default: all."""


@dataclass(frozen=True)
class Bench:
    """Measure how well cell types are found, by cplmix and by other methods, what tells good runs without labels, and
    how fast training is.

    For example: python -m cplmix_ray.bench accuracy tune_configs/bench_digits.yaml --out bench_out
    """

    what: (
        Annotated[Accuracy, tyro.conf.subcommand("accuracy")]
        | Annotated[Rank, tyro.conf.subcommand("rank")]
        | Annotated[Curve, tyro.conf.subcommand("curve")]
        | Annotated[Speed, tyro.conf.subcommand("speed")]
    )


def bench(args: list[str]) -> None:
    """Do what the line's first word says."""
    command = parse_line(Bench, args, "bench").what
    match command:
        case Accuracy():
            accuracy(command)
        case Rank():
            rank(command)
        case Curve():
            curve(command)
        case Speed():
            speed(command)


def accuracy(command: Accuracy) -> None:
    """Run what has no row yet, show the table, and say where the rows are.

    Raises:
        TrainingError: a run failed, or the benchmark was interrupted.
    """
    for name in ("workers", "threads"):
        if getattr(command, name) < 1:
            raise InputError(f"--{name} {getattr(command, name)} must be 1 or more.")
    if any(not 0 <= seed < 2**32 for seed in command.seeds):
        raise InputError(f"--seeds {' '.join(map(str, command.seeds))} must be 0 or more, and less than 2^32.")
    from cplmix_ray.benchmarks.entries import load_entries
    from cplmix_ray.benchmarks.jobs import jobs_of

    entries = load_entries(command.bench, command.only)
    data_dir = Path(command.data_dir) if command.data_dir else None
    jobs = jobs_of(entries, Path(command.bench).parent, data_dir, command.seeds)
    # Heavy imports only now, so that --help and a wrong line answer at once.
    with loading():
        from cplmix_ray.benchmarks.results import key_of, read_rows
        from cplmix_ray.benchmarks.runner import conduct_benchmark, without_row
        from cplmix_ray.benchmarks.single_run import Place
        from cplmix_ray.checkpoints.run_folder import require_writable
        from cplmix_ray.cli.bench_table import Progress, summary

    out = Path(command.out)
    rows = Path(command.rows) if command.rows else out / "rows.csv"
    for folder in (out, rows.parent):
        require_writable(folder)
    todo = without_row(jobs, rows)
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them have a row in {rows}.", flush=True)
    place = Place(out.resolve(), command.threads, command.keep_models)
    try:
        failed = conduct_benchmark(todo, rows, place, command.workers, Progress(len(todo)))
    except KeyboardInterrupt:
        raise TrainingError(f"The benchmark was interrupted; the same command goes on, rows are in {rows}.") from None
    keys = {job.key for job in jobs}
    summary([row for row in read_rows(rows) if key_of(row) in keys])
    if failed:
        raise TrainingError(f"{failed} of {len(todo)} runs failed, as said above; rows of the others are in {rows}.")
    print(f"Rows are in {rows}.")


def rank(command: Rank) -> None:
    """Show the table, write it, and say where it is."""
    from cplmix_ray.benchmarks.rank import rankings, write_rankings
    from cplmix_ray.cli.bench_table import rank_table

    path = Path(command.rows)
    rows = _some_rows(path, command.only)
    found = rankings(rows, Path(command.runs) if command.runs else path.parent)
    rank_table(found)
    out = Path(command.out) if command.out else path.parent / "rank.csv"
    write_rankings(out, found)
    print(f"The table is in {out}.")


def curve(command: Curve) -> None:
    """Draw, and say where the picture is."""
    from cplmix_ray.benchmarks.curve import draw_curves, points_of, save_figure

    path = Path(command.rows)
    rows = [row for row in _some_rows(path, command.only) if row["method"] == command.method]
    curves = points_of(rows, command.x, command.by, command.y)
    out = Path(command.out) if command.out else path.parent / f"{command.y}-{command.x}.png"
    save_figure(draw_curves(curves, command.x, command.y), out)
    for name, points in curves.items():
        shown = ", ".join(f"{point.x:g}" if isinstance(point.x, float) else str(point.x) for point in points)
        print(f"{name}: {sum(point.runs for point in points)} runs at {command.x} = {shown}.")
    print(f"The picture is in {out}.")


def _some_rows(path: Path, only: tuple[str, ...]) -> list[dict[str, str]]:
    from cplmix_ray.benchmarks.results import read_rows

    rows = [row for row in read_rows(path) if not only or row["name"] in only]
    if not rows:
        which = f" of {', '.join(only)}" if only else ""
        raise InputError(f"{path} holds no rows{which}; run python -m cplmix_ray.bench accuracy first.")
    return rows
