"""`python -m cplmix_ray.bench speed`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cplmix_ray.benchmarks.speed.case import Case, DeviceName, EngineName, Shape, cases_of
from cplmix_ray.cli.parser import loading
from cplmix_ray.config.placement import Precision
from cplmix_ray.utils.errors import InputError, TrainingError


@dataclass(frozen=True)
class Speed:
    """Measure training steps on this machine: time, memory and communication between arms, on synthetic cells.

    Each step is compared with a straightforward implementation and with the peak speed of matrix products on this
    machine. If options have several values, all combinations are measured, with one row each; combinations that already
    have a row in --out are skipped.
    """

    out: str = "runs/speed.csv"
    """CSV file to which rows are added, or a folder for it."""
    cells: tuple[int, ...] = (1000,)
    """Cells in a minibatch."""
    genes: tuple[int, ...] = (5032,)
    """Number of genes."""
    n_categories: tuple[int, ...] = (115,)
    """Number of categories K (cell types to find)."""
    state_dim: tuple[int, ...] = (2,)
    """Number of dimensions of the continuous state."""
    hidden: tuple[int, ...] = (100, 100, 100, 100)
    """Widths of the hidden layers of one network (a single setting, not several values to measure)."""
    n_arms: tuple[int, ...] = (2,)
    """Number of coupled autoencoders (arms) A."""
    density: tuple[float, ...] = (1.0,)
    """Fraction of nonzero values: 1 for dense cells, about 0.1 for sparse counts."""
    dropout: tuple[float, ...] = (0.5,)
    """Fraction of the inputs that are dropped at the encoder."""
    precision: tuple[Precision, ...] = ("float32",)
    """Precision of the matrix products."""
    engine: tuple[EngineName, ...] = ("local",)
    """local: all arms in this process. ray: on Ray actors, compared with one arm on one actor."""
    threads: tuple[int, ...] = (1,)
    """Number of threads per process."""
    device: DeviceName = "auto"
    """Device to compute on."""
    rounds: int = 7
    """Number of rounds in which the compared implementations alternate; results are medians over the rounds."""


_OVER = (
    *("cells", "genes", "n_categories", "state_dim", "n_arms"),
    *("density", "dropout", "precision", "engine", "threads"),
)
_WHOLE = ("cells", "genes", "n_categories", "state_dim", "hidden", "n_arms", "threads", "rounds")


def speed(command: Speed) -> None:
    """Measure the cases that have no row yet, print the table, and print the path of the rows.

    Raises:
        InputError: a value is out of bounds, or a device is not available.
        TrainingError: a worker failed, or the measurement was interrupted.
    """
    _require_bounds(command)
    base = Case(Shape(hidden=command.hidden), device=command.device, rounds=command.rounds)
    cases = list(cases_of(base, {name: getattr(command, name) for name in _OVER}))
    # Slow imports are delayed, so that --help and invalid options are answered at once.
    with loading():
        from cplmix_ray.benchmarks.results import read_rows, with_keys
        from cplmix_ray.benchmarks.speed.case import COLUMNS, KEY, SETTINGS
        from cplmix_ray.benchmarks.speed.measure import emulation_factor, measure_all, pending_cases, resolve_device
        from cplmix_ray.cli.bench_table import speed_table
        from cplmix_ray.utils.durable import require_writable

    path = Path(command.out)
    path = path if path.suffix == ".csv" else path / "speed.csv"
    cases = [resolve_device(case) for case in cases]
    pending = pending_cases(cases, path)
    require_writable(path.parent)
    print(f"{len(cases)} cases, {len(cases) - len(pending)} of them have a row in {path}.", flush=True)
    slower = emulation_factor(pending)
    if slower is not None:
        print(
            f"This processor has no 16-bit arithmetic: products in bfloat16 are emulated and take {slower:.0f} times "
            "as long as in float32; cases with --precision bfloat16 will take long and are not representative.",
            flush=True,
        )
    done = 0

    def on_end(case: Case, figures: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{len(pending)}] {case}: {figures['step_ms']:.4g} ms a step", flush=True)

    try:
        measure_all(pending, path, on_end)
    except KeyboardInterrupt:
        raise TrainingError(
            f"The benchmark was interrupted; repeat the command to continue. Rows are in {path}."
        ) from None
    speed_table(with_keys(read_rows(path, COLUMNS), {case.key for case in cases}, KEY), SETTINGS)
    print(f"Rows are in {path}.")


def _require_bounds(command: Speed) -> None:
    for name in _WHOLE:
        given, least = getattr(command, name), 2 if name == "cells" else 1  # batch normalisation needs two cells
        for value in given if isinstance(given, tuple) else (given,):
            if value < least:
                raise InputError(f"--{name.replace('_', '-')} {value} must be {least} or more.")
    for value in command.density:
        if not 0 < value <= 1:
            raise InputError(f"--density {value:g} must be above 0 and at most 1.")
    for value in command.dropout:
        if not 0 <= value < 1:
            raise InputError(f"--dropout {value:g} must be at least 0 and below 1.")
