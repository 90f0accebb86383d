"""Settings of a hyperparameter search."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from cplmix_ray.config.families import AnyRunConfig, default_settings
from cplmix_ray.config.presets import DEFAULT_PRESET, load_preset
from cplmix_ray.config.section import Section
from cplmix_ray.metrics.registry import searchable_names

_MOST_TRIALS = 100_000


def _searchable(name: str) -> str:
    if name != "auto" and name not in searchable_names():
        raise ValueError(f"should be one of {', '.join(('auto', *searchable_names()))}, not '{name}'")
    return name


MetricName = Annotated[str, AfterValidator(_searchable)]
"""auto, or a metric by which trials can be ranked."""


class Dimension(Section):
    """How the values of one setting are chosen; exactly one of these kinds."""

    choice: list[Any] | None = Field(None, min_length=1, description="Draw one of these values at random.")
    grid: list[Any] | None = Field(
        None, min_length=1, description="Try each of these values, combined with the values of all other grids."
    )
    uniform: tuple[float, float] | None = Field(
        None, strict=False, description="Draw a number between these two, uniformly."
    )
    loguniform: tuple[float, float] | None = Field(
        None, strict=False, description="Draw a number between these two, uniformly in its logarithm."
    )

    @model_validator(mode="after")
    def _check(self) -> "Dimension":
        kinds = list(self.model_dump(exclude_none=True))
        if len(kinds) != 1:
            raise ValueError("requires exactly one of choice, grid, uniform and loguniform")
        low, high = self.bounds
        if self.values is None and not -math.inf < low < high < math.inf:
            raise ValueError(f"{kinds[0]} requires two numbers, the smaller first")
        if self.loguniform and low <= 0:
            raise ValueError("loguniform requires numbers above 0")
        return self

    @property
    def values(self) -> list[Any] | None:
        """All values of a choice or a grid."""
        return self.choice if self.choice is not None else self.grid

    @property
    def bounds(self) -> tuple[float, float]:
        """Ends of a range; (0, 0) for a choice or a grid."""
        return self.uniform or self.loguniform or (0.0, 0.0)

    def probes(self) -> list[Any]:
        """Values with which a space is validated before the search: all of a list; the ends of a range and one number
        between them, since the allowed values of a setting are an interval and an integer setting refuses the latter.
        """
        if self.values is not None:
            return self.values
        low, high = self.bounds
        return [low, low + 0.381966 * (high - low), high]


class Search(Section):
    """How the search space is explored, and how trials are ranked."""

    metric: MetricName = Field(
        "auto",
        description=(
            "Score that ranks the trials, mean over seeds. auto: acc (Hungarian accuracy) if there are "
            "labels, otherwise agreement (chance-corrected agreement between arms). "
            f"Others: {', '.join(searchable_names())}."
        ),
    )
    trials: int | None = Field(
        None,
        ge=1,
        description=(
            "Number of draws from the search space; each draw is combined with every point of the grids. "
            "Default: 8, or 1 if all settings are grids."
        ),
    )
    seeds: int = Field(1, ge=1, description="Number of runs per trial, with the seeds --seed, --seed + 1, ...")
    searcher: Literal["random", "optuna"] = Field(
        "random",
        description=(
            "random: independent draws, and grids. optuna: draws that depend on the scores of finished trials "
            "(requires optuna)."
        ),
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        "none",
        description=(
            "none: every trial runs to its end. asha: stop trials with low scores early. pbt: trials with low "
            "scores continue from better ones with changed settings (population based training)."
        ),
    )
    grace_steps: int | None = Field(
        None,
        ge=1,
        description="asha: number of steps before a trial can be stopped; default: a quarter of its first run.",
    )
    reduction: float = Field(3.0, gt=1, description="asha: at each decision, one trial in this many continues.")
    perturb_every: int | None = Field(
        None, ge=1, description="pbt: number of steps between exchanges; default: a fifth of the run."
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="Largest number of trials at a time; default: as many as the devices allow."
    )
    max_hours: float | None = Field(
        None, gt=0, description="Stop the search after this many hours; --resume continues it."
    )
    trial_failures: int = Field(3, ge=0, description="Number of restarts of a trial whose process died.")
    search_seed: int = Field(0, ge=0, lt=2**32, description="Seed of the draws.")

    def exchange_every(self, n_steps: int) -> int:
        """pbt: steps between exchanges in a run of ``n_steps``."""
        return self.perturb_every or max(1, n_steps // 5)


class SearchConfig(Section):
    """Settings of a search, as in its YAML file: the run that all trials start from, the search space, and the search.

    ``space`` maps dotted names of settings (``model.n_arms``) to how their values are chosen.
    """

    run: AnyRunConfig = Field(default_factory=default_settings)
    space: dict[str, Dimension] = Field(min_length=1)
    search: Search = Search()

    @model_validator(mode="after")
    def _check(self) -> "SearchConfig":
        grids = [name for name, dimension in self.space.items() if dimension.grid is not None]
        if len(grids) == len(self.space) and (self.search.trials or 1) > 1:
            raise ValueError(
                "search.trials: all settings are grids, so every draw would be the same; leave trials out, and set "
                "seeds to repeat runs"
            )
        if grids and self.search.searcher == "optuna":
            raise ValueError(f"space.{grids[0]}: optuna does not support grids; use choice instead of grid")
        if self.n_trials() > _MOST_TRIALS:
            raise ValueError(
                f"space: the search space has {self.n_trials():.3g} trials; reduce it to at most {_MOST_TRIALS:,}"
            )
        if self.search.scheduler == "pbt" and self.search.searcher == "optuna":
            raise ValueError(
                "search: pbt cannot be combined with optuna, because it changes settings itself; use searcher random"
            )
        if self.search.scheduler == "pbt" and self.search.seeds > 1:
            raise ValueError(
                "search: pbt exchanges weights between trials and requires one seed per trial; set seeds to 1"
            )
        return self

    @property
    def n_draws(self) -> int:
        """search.trials, or its default."""
        drawn = any(dimension.grid is None for dimension in self.space.values())
        return self.search.trials or (8 if drawn else 1)

    def n_trials(self) -> int:
        """Number of trials."""
        return self.n_draws * math.prod(len(d.grid) for d in self.space.values() if d.grid is not None)


def default_search(preset: str = DEFAULT_PRESET) -> SearchConfig:
    """The search that runs without a file. On the digits of scikit-learn, it takes minutes on two cores.

    Args:
        preset: name of the preset that suits the data.
    """
    run = load_preset(preset)
    return SearchConfig.model_validate(
        {
            "run": run.with_settings(training={"max_steps": min(1000, run.training.max_steps or 1000)}),
            "space": {
                "model.n_arms": {"grid": [1, 2]},
                "objective.lam": {"loguniform": [0.1, 10]},
                "model.n_categories": {"grid": [8, 10, 12]},
            },
            "search": {"trials": 2},
        }
    )
