"""`python -m cplmix_ray.bench`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from cplmix_ray.benchmarks.entries import Method
from cplmix_ray.cli.parser import Flag, loading, parse_line
from cplmix_ray.cli.speed_command import Speed, speed
from cplmix_ray.utils.errors import InputError, TrainingError

if TYPE_CHECKING:
    import pandas as pd

    from cplmix_ray.benchmarks.runs import BenchmarkRun


@dataclass(frozen=True)
class Accuracy:
    """Run every entry of a benchmark with every seed and add one row per run; runs that have a row are skipped."""

    bench: tyro.conf.Positional[str]
    """YAML list of entries, or cell sets and recipes that are all combined; see tune_configs/bench_cells.yaml."""
    out: str
    """Folder for the output of the runs: categories, TensorBoard values, settings and simulated cells."""
    rows: str | None = None
    """CSV file to which rows are added; default: rows.csv in --out."""
    data_dir: str | None = None
    """Folder of the data files with relative paths; default: CPLMIX_RAY_DATA, or else the current folder."""
    seeds: tuple[int, ...] = ()
    """Seeds to use instead of those of the entries."""
    only: tuple[str, ...] = ()
    """Names of the entries to run, or of cell sets or recipes; default: all."""
    workers: int = 1
    """Number of runs at a time, each in its own process."""
    threads: int = 1
    """Number of threads per run."""
    keep_models: Flag = False
    """Keep the checkpoints of finished runs in --out; they need most of the space."""


@dataclass(frozen=True)
class Rank:
    """Rank correlation (Spearman) of each label-free score with the accuracy, over the runs on each data set."""

    rows: tyro.conf.Positional[str]
    """CSV file of rows."""
    runs: str | None = None
    """Folder given to accuracy with --out, for the agreement between seeds; default: the folder of the rows."""
    out: str | None = None
    """CSV file for the table; default: rank.csv in the folder of the rows."""
    only: tuple[str, ...] = ()
    """Names of the entries to include; default: all."""


@dataclass(frozen=True)
class Curve:
    """Plot a score against a setting: one curve per data set, with error bars (standard deviation over runs)."""

    rows: tyro.conf.Positional[str]
    """CSV file of rows."""
    x: str
    """Setting or column on the x axis, such as model.n_arms; k_off is K minus the number of types."""
    y: str = "acc"
    """Column of the score."""
    by: str = "data"
    """Setting or column that defines the curves, one for each of its values, such as data, name or coupling."""
    out: str | None = None
    """Figure (.png, .pdf or .svg); default: <y>-<x>.png in the folder of the rows."""
    method: Method = "cplmix"
    """Method whose rows are plotted."""
    only: tuple[str, ...] = ()
    """Names of the entries to plot; default: all."""


@dataclass(frozen=True)
class Bench:
    """Benchmarks: accuracy of cplmix and other methods, label-free scores that correlate with it, and training speed.

    For example: python -m cplmix_ray.bench accuracy tune_configs/bench_digits.yaml --out bench_out
    """

    what: (
        Annotated[Accuracy, tyro.conf.subcommand("accuracy")]
        | Annotated[Rank, tyro.conf.subcommand("rank")]
        | Annotated[Curve, tyro.conf.subcommand("curve")]
        | Annotated[Speed, tyro.conf.subcommand("speed")]
    )


def bench(args: list[str]) -> None:
    """Run the subcommand."""
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
    """Do the runs that have no row yet, print the table, and print the path of the rows.

    Raises:
        TrainingError: a run failed, or the benchmark was interrupted.
    """
    for name in ("workers", "threads"):
        if getattr(command, name) < 1:
            raise InputError(f"--{name} {getattr(command, name)} must be 1 or more.")
    if any(not 0 <= seed < 2**32 for seed in command.seeds):
        raise InputError(f"--seeds {' '.join(map(str, command.seeds))} must be 0 or more, and less than 2^32.")
    from cplmix_ray.benchmarks.entries import load_entries
    from cplmix_ray.benchmarks.runs import expand_entries

    entries = load_entries(command.bench, command.only)
    data_dir = Path(command.data_dir) if command.data_dir else None
    out = Path(command.out)
    runs = expand_entries(entries, Path(command.bench).parent, data_dir, command.seeds, out / "simulated")
    # Slow imports are delayed, so that --help and invalid options are answered at once.
    with loading():
        from cplmix_ray.benchmarks.execute import RunOptions
        from cplmix_ray.benchmarks.results import read_rows, with_keys
        from cplmix_ray.benchmarks.runner import pending_runs, run_benchmark
        from cplmix_ray.benchmarks.simulated import simulate_missing
        from cplmix_ray.cli.bench_table import BenchmarkProgress, print_summary
        from cplmix_ray.utils.durable import require_writable

    path = Path(command.rows) if command.rows else out / "rows.csv"
    for folder in (out, path.parent):
        require_writable(folder)
    pending = pending_runs(runs, path)
    print(f"{len(runs)} runs, {len(runs) - len(pending)} of them have a row in {path}.", flush=True)
    simulate_missing(pending, data_dir)
    options = RunOptions(out.resolve(), command.threads, command.keep_models)
    try:
        failed = run_benchmark(pending, path, options, command.workers, BenchmarkProgress(len(pending)))
    except KeyboardInterrupt:
        raise TrainingError(
            f"The benchmark was interrupted; repeat the command to continue. Rows are in {path}."
        ) from None
    rows = with_keys(read_rows(path), {run.key for run in runs})
    print_summary(rows)
    _compare_recipes(rows, runs, path)
    if failed:
        raise TrainingError(
            f"{failed} of {len(pending)} runs failed, for the reasons given above; "
            f"the rows of the others are in {path}."
        )
    print(f"Rows are in {path}.")


def _compare_recipes(rows: "pd.DataFrame", runs: "list[BenchmarkRun]", path: Path) -> None:
    """Print and write the ranking of recipes, if the benchmark compares any."""
    from cplmix_ray.benchmarks.recipes import rank_recipes, recipe_scores, write_comparison
    from cplmix_ray.cli.bench_table import recipe_tables

    scores = recipe_scores(rows, runs)
    if scores.empty:
        return
    ranking = rank_recipes(scores)
    recipe_tables(ranking)
    written = write_comparison(path, scores, ranking)
    print(f"The ranking is in {written[0]} and {written[1]}.")


def rank(command: Rank) -> None:
    """Print the table, write it, and print its path."""
    from cplmix_ray.benchmarks.rank import rank_scores, write_rankings
    from cplmix_ray.cli.bench_table import rank_table

    path = Path(command.rows)
    rankings = rank_scores(_some_rows(path, command.only), Path(command.runs) if command.runs else path.parent)
    rank_table(rankings)
    out = Path(command.out) if command.out else path.parent / "rank.csv"
    write_rankings(out, rankings)
    print(f"The table is in {out}.")


def curve(command: Curve) -> None:
    """Plot, and print the path of the figure."""
    from cplmix_ray.benchmarks.curve import curve_points, draw_curves, save_figure

    path = Path(command.rows)
    rows = _some_rows(path, command.only)
    points = curve_points(rows[rows["method"] == command.method], command.x, command.by, command.y)
    out = Path(command.out) if command.out else path.parent / f"{command.y}-{command.x}.png"
    save_figure(draw_curves(points, command.x, command.y), out)
    for name, at in points.groupby("curve", sort=False):
        shown = ", ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in at["x"])
        print(f"{name}: {at['runs'].sum()} runs at {command.x} = {shown}.")
    print(f"The figure is in {out}.")


def _some_rows(path: Path, only: tuple[str, ...]) -> "pd.DataFrame":
    from cplmix_ray.benchmarks.results import read_rows

    rows = read_rows(path)
    rows = rows[rows["name"].isin(only)] if only else rows
    if rows.empty:
        which = f" of {', '.join(only)}" if only else ""
        raise InputError(f"{path} contains no rows{which}; run python -m cplmix_ray.bench accuracy first.")
    return rows
