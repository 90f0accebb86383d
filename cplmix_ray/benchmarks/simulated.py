"""Simulated cells of benchmarks, which are made when the first run needs them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from cplmix_ray.benchmarks.runs import BenchmarkRun, resolve_path
from cplmix_ray.data.io.write_h5ad import write_cells
from cplmix_ray.simulation.simulate import simulate
from cplmix_ray.utils.output_lock import lock_file


def simulate_missing(runs: Iterable[BenchmarkRun], data_dir: Path | None, say: Callable[[str], None] = print) -> None:
    """Simulate the cells of the runs that have no file yet.

    Args:
        data_dir: folder of a tree or of gene names with relative paths; see ``resolve_path``.

    Raises:
        InputError: a file cannot be used, settings contradict each other, or cells cannot be written.
    """
    files = {run.config.input.data: run.entry.simulation for run in runs}
    for path, settings in files.items():
        if settings is None or Path(path).exists():
            continue
        say(f"Simulating {settings.cells} cells of {settings.types} types: {path}")
        named = {name: getattr(settings, name) for name in ("tree", "gene_names")}
        found = {name: resolve_path(file, data_dir) for name, file in named.items() if file is not None}
        with lock_file(Path(path)):
            adata = simulate(settings.model_copy(update=found))
            write_cells(Path(path), adata, compression="gzip", compression_opts=1)
