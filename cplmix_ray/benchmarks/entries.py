"""Entries of a benchmark: a YAML list of methods, settings and data, or cell sets and recipes that are all combined."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator

from cplmix_ray.config.files import describe
from cplmix_ray.config.section import Section
from cplmix_ray.config.yaml_file import read_yaml
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.utils.errors import InputError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="What to call it in rows and tables.")]
Part = Annotated[
    Literal["choose", "report"],
    Field(description="Whether recipes may be chosen by their scores on these cells, or are only reported on them."),
]
Method = Literal[
    "cplmix",
    "initial_clustering",
    "kmeans",
    "kmeans_silhouette",
    "leiden",
    "leiden_default",
    "ward",
    "gaussian_mixture",
    "gaussian_mixture_bic",
    "harmony_kmeans",
    "harmony_leiden",
    "scvi_kmeans",
]
USES_ALL_SETTINGS = ("cplmix", "initial_clustering")
"""Methods that use all settings of a run; the others use only those of the input section."""


class Baseline(Section):
    """Settings of the other methods."""

    pcs: int = Field(50, ge=1, description="Principal components on which cells are clustered.")
    scale: bool = Field(False, description="Give every gene unit variance before the principal components.")
    restarts: int = Field(10, ge=1, description="k-means and Gaussian mixture: starts, of which the best counts.")
    most_clusters: int = Field(40, ge=2, description="Silhouette and BIC: largest number of clusters that is tried.")
    neighbours: int = Field(15, ge=2, description="Leiden: neighbours in the graph of cells.")
    epochs: int | None = Field(None, ge=1, description="scVI: passes over the cells; default: scvi-tools' own rule.")


class Cells(Section):
    """The cells of a file, or simulated ones, and their known types."""

    simulation: Simulation | None = Field(
        None, description="Settings as for simulate: cells that are simulated once, into --out, in place of a file."
    )
    data: str | None = Field(
        None, description="As for train; ${NAME} is a variable, a plain path is looked for in --data-dir."
    )
    labels_key: str | None = Field(None, description="Column of obs with known types; the digits bring their own.")
    batch_key: str | None = Field(
        None,
        description=(
            "Column of obs with the batch: input.batch_key unless set or over gives another or none, and for scores."
        ),
    )
    leave_out_cells: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        {}, description="Columns of obs -> values; cells that have one of the values in every column are left out."
    )
    min_cells_per_type: int = Field(1, ge=1, description="Types with fewer cells are left out, for all methods alike.")
    n_categories: int | None = Field(
        None, ge=1, description="Number of categories; default: that in set or over, else the number of types kept."
    )

    @field_validator("data")
    @classmethod
    def _one_source(cls, data: str | None, info: ValidationInfo) -> str | None:
        if "simulation" in info.data and (data is None) == (info.data["simulation"] is None):
            raise ValueError("give a file, or a simulation in its place")
        return data


class MethodSettings(Section):
    """A method with its settings and seeds.

    ``over`` lists values of settings; all their combinations are measured.
    """

    method: Method = Field("cplmix", description="What finds the types.")
    preset: str | None = Field(None, description="Recipe that ships with the package, as for train.")
    config: str | None = Field(None, description="YAML file of settings, seen from the folder of this file.")
    seeds: tuple[Seed, ...] = Field((0, 1, 2), strict=False, min_length=1, description="A run for each.")
    baseline: Baseline = Baseline()
    over: dict[str, list[Any]] = Field({}, description="Dotted settings -> the values to compare.")
    set: dict[str, Any] = Field({}, description="Dotted settings -> value; they go before preset or config.")

    @field_validator("over")
    @classmethod
    def _some_values(cls, over: dict[str, list[Any]]) -> dict[str, list[Any]]:
        if any(not values for values in over.values()):
            raise ValueError("a setting needs at least one value")
        return over

    @model_validator(mode="after")
    def _one_base(self) -> "MethodSettings":
        if self.preset and self.config:
            raise ValueError("preset and config both name a recipe; give one of them")
        return self

    def points(self) -> Iterator[dict[str, Any]]:
        """Dotted settings of every combination."""
        for values in itertools.product(*self.over.values()):
            yield {**self.set, **dict(zip(self.over, values, strict=True))}


class CellSet(Cells):
    """Cells on which recipes are compared."""

    name: Name
    part: Part


class Recipe(MethodSettings):
    """A method and settings that are the same for all cell sets."""

    name: Name
    leave_out: tuple[str, ...] = Field((), strict=False, description="Names of cell sets that it cannot take.")


class Compared(Section):
    """What an entry is in a comparison of recipes."""

    recipe: Name
    cell_set: Name
    part: Part


class Entry(Cells, MethodSettings):
    """A method with its settings on some cells, run once for every seed."""

    name: Name
    compared: Compared | None = Field(None, description="Recipe, cell set and part in the comparison of recipes.")

    @model_validator(mode="after")
    def _said_once(self) -> "Entry":
        named = "model.n_categories" in {*self.set, *self.over}
        twice = sorted({*self.set} & {*self.over}) or (["model.n_categories"] if named and self.n_categories else [])
        if twice:
            raise ValueError(f"{twice[0]} is given twice")
        return self


class Comparison(Section):
    """Cell sets and recipes, each of which is measured on all sets."""

    cell_sets: tuple[CellSet, ...] = Field(strict=False)
    recipes: tuple[Recipe, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _known_sets(self) -> "Comparison":
        if not self.cell_sets or not self.recipes:
            raise ValueError("cell_sets and recipes need at least one item each")
        names = [cells.name for cells in self.cell_sets]
        for recipe in self.recipes:
            for name in recipe.leave_out:
                if name not in names:
                    raise ValueError(f"recipe '{recipe.name}' leaves out '{name}', which is no cell set")
        return self

    def entries(self) -> Iterator[Entry]:
        """Combine every cell set with every recipe; the runs are named SET-RECIPE and sorted by cell set."""
        for cells in self.cell_sets:
            for recipe in self.recipes:
                if cells.name not in recipe.leave_out:
                    yield Entry(
                        **cells.model_dump(exclude={"name", "part", "simulation"}),
                        **recipe.model_dump(exclude={"name", "leave_out", "baseline"}),
                        name=f"{cells.name}-{recipe.name}",
                        simulation=cells.simulation,
                        baseline=recipe.baseline,
                        compared=Compared(recipe=recipe.name, cell_set=cells.name, part=cells.part),
                    )


def load_entries(path: str | Path, only: tuple[str, ...] = ()) -> list[Entry]:
    """Read the entries of a benchmark.

    Args:
        only: names of those to take, or of cell sets or recipes; empty takes all.

    Raises:
        InputError: the file is missing, is no YAML list of entries and no comparison, or a name is not in it.
    """
    tree = read_yaml(path, "benchmark")
    if not isinstance(tree, list | dict) or not tree:
        raise InputError(
            f"{path} is neither a list of entries nor cell sets and recipes; see tune_configs/bench_cells.yaml."
        )
    try:
        if isinstance(tree, dict):
            entries = list(Comparison.model_validate(tree).entries())
        else:
            entries = TypeAdapter(list[Entry]).validate_python(tree)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}; see tune_configs/bench_cells.yaml.") from None
    names = [entry.name for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} has more than one entry '{twice[0]}'; give each its own name.")
    groups = [name for entry in entries if entry.compared for name in (entry.compared.cell_set, entry.compared.recipe)]
    missing = [name for name in only if name not in (*groups, *names)]
    if missing:
        raise InputError(f"{path} has no entry '{missing[0]}'; it has {', '.join(dict.fromkeys(groups or names))}.")
    return [entry for entry in entries if not only or _names_of(entry) & {*only}]


def _names_of(entry: Entry) -> set[str]:
    return {entry.name, *((entry.compared.cell_set, entry.compared.recipe) if entry.compared else ())}
