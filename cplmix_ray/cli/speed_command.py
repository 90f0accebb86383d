"""`python -m cplmix_ray.bench speed`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cplmix_ray.benchmarks.speed.case import Case, Device, Where, cases_of
from cplmix_ray.benchmarks.speed.shape import Shape
from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.config.arms import Precision
from cplmix_ray.utils.errors import InputError, TrainingError


@dataclass(frozen=True)
class Speed:
    """Measure how fast training steps are here: seconds, memory and what travels between arms, on made-up cells.

    Each step is compared with a plain one, written as one would write it first, and with the matrix products that this
    machine is able to do. An option with several values measures all combinations, a row for each; what has a row in
    --out is not measured again.
    """

    out: str = "runs/speed.csv"
    """CSV file that rows are added to, or a folder for it."""
    cells: tuple[int, ...] = (1000,)
    """Cells in a minibatch."""
    genes: tuple[int, ...] = (5032,)
    """Genes of a cell."""
    n_categories: tuple[int, ...] = (115,)
    """Categories K, the cell types to look for."""
    state_dim: tuple[int, ...] = (2,)
    """Dimensions of the continuous state."""
    hidden: tuple[int, ...] = (100, 100, 100, 100)
    """Widths of the hidden layers of one network; these are not several values to measure."""
    n_arms: tuple[int, ...] = (2,)
    """Coupled autoencoders A."""
    density: tuple[float, ...] = (1.0,)
    """Share of the values that are not zero: 1 for cells kept dense, about 0.1 for counts kept sparse."""
    dropout: tuple[float, ...] = (0.5,)
    """Share of the inputs hidden from the encoder."""
    precision: tuple[Precision, ...] = ("float32",)
    """Matrix products in 32 bits or 16."""
    engine: tuple[Where, ...] = ("local",)
    """local: all arms in this process. ray: on Ray actors, compared with one arm on one actor."""
    threads: tuple[int, ...] = (1,)
    """Threads of a process."""
    device: Device = "auto"
    """Where the arms compute."""
    rounds: int = 7
    """How often what is compared takes turns; figures are medians over the rounds."""


_SHAPES = ("cells", "genes", "n_categories", "state_dim", "n_arms", "density", "dropout", "precision")
_OVER = (*_SHAPES, "engine", "threads")
_WHOLE = ("cells", "genes", "n_categories", "state_dim", "hidden", "n_arms", "threads", "rounds")


def speed(command: Speed) -> None:
    """Measure what has no row yet, show the table, and say where the rows are.

    Raises:
        InputError: a value is out of bounds, or a device is not there.
        TrainingError: a worker failed, or the measurement was interrupted.
    """
    _require_bounds(command)
    usual = Case(Shape(hidden=command.hidden), device=command.device, rounds=command.rounds)
    cases = list(cases_of(usual, {name: getattr(command, name) for name in _OVER}))
    # Heavy imports only now, so that --help and a wrong line answer at once.
    with loading():
        from cplmix_ray.benchmarks.results import read_rows
        from cplmix_ray.benchmarks.speed.case import COLUMNS, key_of
        from cplmix_ray.benchmarks.speed.measure import emulated, measure_all, resolved, without_row
        from cplmix_ray.checkpoints.run_folder import require_writable
        from cplmix_ray.cli.speed_table import speed_table

    rows = Path(command.out)
    rows = rows if rows.suffix == ".csv" else rows / "speed.csv"
    cases = [resolved(case) for case in cases]
    todo = without_row(cases, rows)
    require_writable(rows.parent)
    print(f"{len(cases)} cases, {len(cases) - len(todo)} of them have a row in {rows}.", flush=True)
    slower = emulated(todo)
    if slower is not None:
        print(
            f"This processor has no 16-bit arithmetic: products in bfloat16 are emulated, and take {slower:.0f} times "
            "as long as in float32; cases with --precision bfloat16 will take long and say little.",
            flush=True,
        )
    done = 0

    def tell(case: Case, figures: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{len(todo)}] {case}: {figures['step_ms']:.4g} ms a step", flush=True)

    try:
        measure_all(todo, rows, tell)
    except KeyboardInterrupt:
        raise TrainingError(f"The benchmark was interrupted; the same command goes on, rows are in {rows}.") from None
    keys = {case.key for case in cases}
    speed_table([row for row in read_rows(rows, COLUMNS) if key_of(row) in keys])
    print(f"Rows are in {rows}.")


def _require_bounds(command: Speed) -> None:
    for name in _WHOLE:
        given, least = getattr(command, name), 2 if name == "cells" else 1  # one cell has no spread to normalise by
        for value in given if isinstance(given, tuple) else (given,):
            if value < least:
                raise InputError(f"--{name.replace('_', '-')} {value} must be {least} or more.")
    for value in command.density:
        if not 0 < value <= 1:
            raise InputError(f"--density {value:g} must be above 0 and at most 1.")
    for value in command.dropout:
        if not 0 <= value < 1:
            raise InputError(f"--dropout {value:g} must be at least 0 and below 1.")
