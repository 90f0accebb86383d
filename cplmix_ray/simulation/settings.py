"""Settings of a simulation."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cplmix_ray.config.section import PathText, Section


@dataclass(frozen=True)
class Technology:
    """Distribution of the counts of a sequencing technology.

    Attributes:
        depth: median number of counts per cell, divided by the number of simulated genes.
        library_sd: standard deviation of the natural logarithm of a cell's counts.
        dispersion: phi of the negative binomial, whose variance is mu + phi mu^2.
        dropout: expected count at which half of the values are set to zero.
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
    """Settings of a simulation.

    The defaults have as many cells, genes and types as the Smart-seq data of mouse cortex.
    """

    types: int = Field(115, ge=1, description="Number of cell types.")
    cells: int = Field(22365, ge=2, description="Number of cells, of all types together.")
    genes: int | None = Field(
        None,
        ge=10,
        description="Number of genes; default: all of --gene-names, or 5,032, as in Smart-seq data of mouse cortex.",
    )
    tree: PathText | None = Field(
        None,
        description=(
            "CSV file of a dendrogram of types with the columns label, parent and height, one row per leaf "
            "and node. A larger tree is reduced to --types. Default: a random tree."
        ),
    )
    gene_names: PathText | None = Field(
        None, description="Text file with one gene name per line; default: gene_0001 and so on."
    )
    subclasses: int | None = Field(
        None,
        ge=1,
        description="Number of branches of the tree that are named in obs['subclass']; default: a sixth of --types.",
    )
    abundance_ratio: float = Field(
        1404 / 16, ge=1, description="Ratio of the numbers of cells of the most and the least abundant type."
    )
    abundance_bend: float = Field(
        0.662,
        gt=0,
        description=(
            "Shape of the abundance curve from the first to the last type. 1: abundance decreases by a "
            "constant factor; below 1: it decreases faster at first, so that most types are rare. The default "
            "gives 1,404 to 16 cells in a cortex of 115 types."
        ),
    )
    technology: Literal["smartseq", "10x"] = Field(
        "smartseq",
        description=(
            "smartseq: high depth, half of the values are nonzero. 10x: low depth, about one value in ten is nonzero."
        ),
    )
    library: float | None = Field(
        None, gt=0, description="Median number of counts per cell; default: depends on --technology."
    )
    library_sd: float | None = Field(
        None,
        ge=0,
        description="Standard deviation of the logarithm of the counts per cell; default: depends on --technology.",
    )
    dispersion: float | None = Field(
        None,
        gt=0,
        description=(
            "Dispersion phi of the negative binomial, whose variance is mu + phi mu^2; default: depends on "
            "--technology."
        ),
    )
    dropout: float | None = Field(
        None,
        ge=0,
        description="Expected count at which half of the values are set to zero; default: depends on --technology.",
    )
    expression_sd: float | None = Field(
        None,
        ge=0,
        description=(
            "Standard deviation of the natural logarithm of the mean expression of the genes; default: "
            "depends on --technology."
        ),
    )
    marker_share: float = Field(
        0.4, gt=0, le=1, description="Fraction of the genes whose expression differs between types."
    )
    changes: float = Field(
        0.4,
        gt=0,
        description=(
            "Mean number of changes of the expression of such a gene between the root of the tree and a leaf; "
            "with more changes, types are easier to distinguish."
        ),
    )
    change_sd: float = Field(
        1.0, gt=0, description="Size of such a change (standard deviation of the log fold change)."
    )
    state_dims: int = Field(1, ge=0, le=9, description="Number of dimensions of the continuous state of a cell.")
    state_share: float = Field(
        0.03,
        gt=0,
        le=0.5,
        description="Fraction of the genes that depend on one dimension of the state; each type has its own genes.",
    )
    state_strength: float = Field(
        0.8,
        ge=0,
        description="Size of the effect of the state on such a gene (standard deviation of the log fold change).",
    )
    state_shape: Literal["linear", "sigmoid"] = Field(
        "sigmoid", description="Dependence of log-expression on the state: linear, or sigmoid (constant at both ends)."
    )
    batches: int = Field(1, ge=1, description="Number of batches.")
    batch_strength: float = Field(
        0.5,
        ge=0,
        description=(
            "Size of the effect of a batch on every gene (standard deviation of the log fold change). 0: the same "
            "cells in the same batches, without any effect, also without one on depth."
        ),
    )
    batch_by_type: float = Field(
        0.1,
        ge=0,
        le=1,
        description=(
            "Fraction of the variance of that effect that differs between types, less between types that are near each "
            "other in the tree; the rest is common to all types."
        ),
    )
    batch_depth_sd: float = Field(
        0.2,
        ge=0,
        description="Standard deviation between batches of the logarithm of the counts per cell.",
    )
    batch_missing: int = Field(
        0,
        ge=0,
        description=(
            "Number of types that each batch lacks, different ones in each batch as far as possible. The cells of "
            "these types are in the other batches."
        ),
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of all random numbers.")

    @model_validator(mode="after")
    def _check_missing_types(self) -> "Simulation":
        most = self.types * (self.batches - 1) // self.batches
        if self.batch_missing > most:
            raise ValueError(
                f"batch_missing: if every batch lacks {self.batch_missing} of {self.types} types and batches is "
                f"{self.batches}, some type is missing in all batches; set batch_missing to at most {most}, or "
                f"increase batches"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """All settings, those of batches only if there are several: with one batch they have no effect on the cells."""
        return {k: v for k, v in dump(self).items() if self.batches > 1 or not k.startswith("batch")}

    def of_technology(self, name: str) -> float:
        """A setting (library_sd, dispersion, dropout or expression_sd), or the default of the technology."""
        given = getattr(self, name)
        return getattr(TECHNOLOGIES[self.technology], name) if given is None else given

    def library_of(self, n_genes: int) -> float:
        """Median number of counts per cell."""
        return TECHNOLOGIES[self.technology].depth * n_genes if self.library is None else self.library
