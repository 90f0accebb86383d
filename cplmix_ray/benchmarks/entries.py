"""Entries of a benchmark: a YAML list of methods, settings and data to compare."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from cplmix_ray.config.files import describe
from cplmix_ray.config.section import Section
from cplmix_ray.config.yaml_file import read_yaml
from cplmix_ray.utils.errors import InputError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Method = Literal["cplmix", "kmeans", "leiden", "scvi_kmeans"]


class Baseline(Section):
    """Settings of the other methods."""

    pcs: int = Field(50, ge=1, description="Principal components on which cells are clustered.")
    scale: bool = Field(False, description="Give every gene unit variance before the principal components.")
    restarts: int = Field(10, ge=1, description="k-means: starts, of which the best counts.")
    neighbours: int = Field(15, ge=2, description="Leiden: neighbours in the graph of cells.")
    epochs: int | None = Field(None, ge=1, description="scVI: passes over the cells; default: scvi-tools' own rule.")


class Entry(Section):
    """A method with its settings on a data set, run once for every seed.

    ``over`` lists values of settings; all their combinations are measured.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="What to call it in rows and tables.")
    data: str = Field(description="As for train; ${NAME} is a variable, a plain path is looked for in --data-dir.")
    labels_key: str | None = Field(None, description="Column of obs with known types; the digits bring their own.")
    min_cells_per_type: int = Field(1, ge=1, description="Types with fewer cells are left out, for all methods alike.")
    method: Method = Field("cplmix", description="What finds the types.")
    n_categories: int | None = Field(
        None, ge=1, description="Number of categories; default: that in set or over, else the number of types kept."
    )
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
    def _said_once(self) -> "Entry":
        if self.preset and self.config:
            raise ValueError("preset and config both name a recipe; give one of them")
        named = "model.n_categories" in {*self.set, *self.over}
        twice = sorted({*self.set} & {*self.over}) or (["model.n_categories"] if named and self.n_categories else [])
        if twice:
            raise ValueError(f"{twice[0]} is given twice")
        return self

    def points(self) -> Iterator[dict[str, Any]]:
        """Dotted settings of every combination."""
        for values in itertools.product(*self.over.values()):
            yield {**self.set, **dict(zip(self.over, values, strict=True))}


def load_entries(path: str | Path, only: tuple[str, ...] = ()) -> list[Entry]:
    """Read the entries of a benchmark.

    Args:
        only: names of those to take; empty takes all.

    Raises:
        InputError: the file is missing, is no YAML list of entries, or a name is not in it.
    """
    tree = read_yaml(path, "benchmark")
    if not isinstance(tree, list) or not tree:
        raise InputError(f"{path} is no list of entries, each with a name and data; see tune_configs/bench_cells.yaml.")
    try:
        entries = TypeAdapter(list[Entry]).validate_python(tree)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}; see tune_configs/bench_cells.yaml.") from None
    names = [entry.name for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path} has more than one entry '{twice[0]}'; give each its own name.")
    missing = [name for name in only if name not in names]
    if missing:
        raise InputError(f"{path} has no entry '{missing[0]}'; it has {', '.join(names)}.")
    return [entry for entry in entries if not only or entry.name in only]
