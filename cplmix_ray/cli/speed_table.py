"""How measured steps look: what all have in common in a line, the rest in a table."""

from collections.abc import Sequence

from cplmix_ray.benchmarks.speed.case import SETTINGS
from cplmix_ray.cli.bench_table import plain_table, show

_SHOWN = {
    "step_ms": "ms a step",
    "first_step_ms": "first step",
    "cells_per_s": "cells/s",
    "gflops": "GFLOP/s",
    "of_peak": "of peak",
    "times_as_fast": "times as fast as plain (quartiles)",
    "memory_mb": "MB",
    "plain_memory_mb": "MB, plain",
    "sent_bytes": "bytes sent",
    "wait_ms": "ms waited",
    "times_alone": "times one arm's",
}


def speed_table(rows: Sequence[dict[str, str]]) -> None:
    """Show the rows; settings that all share are told once, and figures that none has are left out."""
    varied = [name for name in SETTINGS if len({row[name] for row in rows}) > 1]
    common = ", ".join(f"{name} {rows[0][name]}" for name in SETTINGS if name not in varied)
    print(f"Common to all: {common}.")
    figures = [name for name in _SHOWN if any(row[name] for row in rows)]
    table = plain_table(varied, [_SHOWN[name] for name in figures])
    for row in rows:
        table.add_row(*(row[name] for name in varied), *(_figure(row, name) for name in figures))
    show(table)


def _figure(row: dict[str, str], name: str) -> str:
    if not row[name]:
        return "-"
    if name == "times_as_fast":
        middle, low, high = (f"{float(row[each]):.3g}" for each in (name, f"{name}_low", f"{name}_high"))
        return f"{middle} ({low}-{high})"
    value = float(row[name])
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
