"""`python -m cplmix_ray.simulate`."""

from dataclasses import dataclass, field
from pathlib import Path

from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.cli.parser import parse_line
from cplmix_ray.cli.progress import Display
from cplmix_ray.simulation.settings import Simulation


@dataclass(frozen=True)
class Simulate:
    """Make cells whose type and continuous state are known, to try a method on: counts in an .h5ad file.

    Types near in the tree share their markers, abundances are as uneven as in the cortex, and inside each type some of
    its genes follow a state. For a small file as from 10x:
    python -m cplmix_ray.simulate --out sim.h5ad --types 30 --cells 6000 --genes 2000 --technology 10x
    """

    out: str
    """The .h5ad to write."""
    settings: Simulation = field(default_factory=Simulation)


def simulate(args: list[str]) -> None:
    """Draw, write, and say where it is."""
    command = parse_line(Simulate, args, "simulate")
    settings, out = command.settings, Path(command.out)
    with loading():
        from cplmix_ray.checkpoints.run_folder import require_writable
        from cplmix_ray.data.io.write_h5ad import write_cells
        from cplmix_ray.simulation import simulate as simulator

    require_writable(out.parent)
    display = Display(unit="cell")
    display.begin(0, settings.cells)
    try:
        adata = simulator.simulate(settings, lambda cells: display.advance(cells, {}))
    finally:
        display.end()
    write_cells(out, adata, compression="gzip", compression_opts=1)
    cells_t = adata.obs["cell_type"].value_counts()
    share = adata.X.nnz / (adata.n_obs * adata.n_vars)
    print(
        f"{adata.n_obs} cells x {adata.n_vars} genes, {len(cells_t)} types of {cells_t.max()} to {cells_t.min()} "
        f"cells, {share:.1%} of the values above zero; seed {settings.seed}."
    )
    print(
        f"Results are in {out}: obs['cell_type'], obs['subclass']"
        + (", obs['state']" if settings.state_dims else "")
        + " and counts in X."
    )
