"""`python -m cplmix_ray.simulate`."""

from dataclasses import dataclass, field

from cplmix_ray.cli.output_paths import output_h5ad
from cplmix_ray.cli.parser import loading, parse_line
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.utils.output_lock import lock_file
from cplmix_ray.utils.progress import Display


@dataclass(frozen=True)
class Simulate:
    """Simulate cells with known type and continuous state, to test methods: counts in an .h5ad file.

    Types that are near each other in the tree share marker genes, abundances are as uneven as in the cortex, and inside
    each type some genes depend on the state. With --batches, cells come in batches that differ in the expression of all
    genes. For a small data set similar to 10x:
    python -m cplmix_ray.simulate --out sim.h5ad --types 30 --cells 6000 --genes 2000 --technology 10x
    """

    out: str
    """.h5ad file to write."""
    settings: Simulation = field(default_factory=Simulation)


def simulate(args: list[str]) -> None:
    """Simulate, write the file, and print its path."""
    command = parse_line(Simulate, args, "simulate")
    settings, out = command.settings, output_h5ad(command.out)
    with loading():
        from cplmix_ray.data.io.write_h5ad import write_cells
        from cplmix_ray.simulation import simulate as simulator

    with lock_file(out):
        display = Display(unit="cell")
        display.begin(0, settings.cells)
        try:
            adata = simulator.simulate(settings, lambda cells: display.advance(cells, {}))
        finally:
            display.end()
        write_cells(out, adata, compression="gzip", compression_opts=1)
    cells_t = adata.obs["cell_type"].value_counts()
    share = adata.X.nnz / (adata.n_obs * adata.n_vars)
    batches = f", {settings.batches} batches" if settings.batches > 1 else ""
    sizes = f"{len(cells_t)} types of {cells_t.max()} to {cells_t.min()}" if len(cells_t) > 1 else "one type of all"
    print(
        f"{adata.n_obs} cells x {adata.n_vars} genes, {sizes} "
        f"cells{batches}, {share:.1%} of the values above zero; seed {settings.seed}."
    )
    print(
        f"Results are in {out}: obs['cell_type'], obs['subclass']"
        + (", obs['batch']" if settings.batches > 1 else "")
        + (", obs['state']" if settings.state_dims else "")
        + " and counts in X."
    )
