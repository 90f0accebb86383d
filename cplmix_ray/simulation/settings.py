"""Every setting of a simulation, with its type, its bounds and the words that `--help` shows."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cplmix_ray.config.section import Section


@dataclass(frozen=True)
class Technology:
    """What a way of sequencing does to the counts.

    Attributes:
        depth: median counts of a cell, for every gene that is simulated.
        library_sd: standard deviation of the natural logarithm of a cell's counts.
        dispersion: phi of the negative binomial, whose variance is mu + phi mu^2.
        dropout: expected count at which half of the values are lost.
        expression_sd: standard deviation of the natural logarithm of the genes' mean expression.
    """

    depth: float
    library_sd: float
    dispersion: float
    dropout: float
    expression_sd: float


TECHNOLOGIES = {
    "smartseq": Technology(depth=60.0, library_sd=0.35, dispersion=0.8, dropout=12.0, expression_sd=1.6),
    "10x": Technology(depth=0.45, library_sd=0.45, dispersion=0.3, dropout=0.0, expression_sd=2.2),
}


class Simulation(Section):
    """What is simulated. With nothing given: as many cells, genes and types as the Smart-seq cortex has."""

    types: int = Field(115, ge=2, description="Number of cell types.")
    cells: int = Field(22365, ge=2, description="Number of cells, of all types together.")
    genes: int | None = Field(
        None, ge=10, description="Number of genes; default: all of --gene-names, else 5032, as in the Smart-seq cortex."
    )
    tree: str | None = Field(
        None,
        description="CSV file of a dendrogram of types with columns label, parent and height, a line for each leaf and "
        "each node. A larger tree is cut down to --types. Default: a random tree.",
    )
    gene_names: str | None = Field(
        None, description="File with a gene name on each line; default: gene_0001 and so on."
    )
    subclasses: int | None = Field(
        None,
        ge=1,
        description="Number of branches of the tree that obs['subclass'] names; default: a sixth of --types.",
    )
    abundance_ratio: float = Field(
        1404 / 16, ge=1, description="How many times as many cells the most abundant type has as the rarest."
    )
    abundance_bend: float = Field(
        0.662,
        gt=0,
        description="How abundance falls from the first type to the last: 1 by a constant factor; below 1 "
        "faster at first, so that most types are rare. The default gives 1,404 to 16 cells in a cortex of 115 types.",
    )
    technology: Literal["smartseq", "10x"] = Field(
        "smartseq",
        description="smartseq: deep, half of the values are not zero. 10x: shallow, about one in ten is not.",
    )
    library: float | None = Field(None, gt=0, description="Median counts of a cell; default by --technology.")
    library_sd: float | None = Field(
        None, ge=0, description="Spread of the cells' counts (s.d. of their logarithm); default by --technology."
    )
    dispersion: float | None = Field(
        None, gt=0, description="Noise phi beyond Poisson, variance mu + phi mu^2; default by --technology."
    )
    dropout: float | None = Field(
        None, ge=0, description="Expected count at which half of the values drop out to zero; default by --technology."
    )
    expression_sd: float | None = Field(
        None,
        ge=0,
        description="Spread of the genes' mean expression (s.d. of its natural logarithm); default by --technology.",
    )
    marker_share: float = Field(0.4, gt=0, le=1, description="Share of the genes whose expression differs by type.")
    changes: float = Field(
        0.4,
        gt=0,
        description="How often the expression of such a gene changes between the root of the tree and a leaf; "
        "more makes types easier to tell apart.",
    )
    change_sd: float = Field(1.0, gt=0, description="Size of such a change (s.d. of the log fold change).")
    state_dims: int = Field(1, ge=0, le=9, description="Dimensions of the continuous state of a cell.")
    state_share: float = Field(
        0.03,
        gt=0,
        le=0.5,
        description="Share of the genes that follow one dimension of the state; each type has its own.",
    )
    state_strength: float = Field(
        0.8, ge=0, description="Size of the state's effect on such a gene (s.d. of the log fold change)."
    )
    state_shape: Literal["linear", "sigmoid"] = Field(
        "sigmoid", description="How log-expression follows the state: on a line, or levelling off at both ends."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")

    def of_technology(self, name: str) -> float:
        """library_sd, dispersion, dropout or expression_sd, or the technology's own."""
        given = getattr(self, name)
        return getattr(TECHNOLOGIES[self.technology], name) if given is None else given

    def library_of(self, n_genes: int) -> float:
        """Median counts of a cell."""
        return TECHNOLOGIES[self.technology].depth * n_genes if self.library is None else self.library
