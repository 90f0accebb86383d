"""Every setting of a search: the run that all trials start from, what is varied, and how."""

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from cplmix_ray.config.schema import Config
from cplmix_ray.config.section import Section

MetricName = Literal["auto", "acc", "ari", "nmi", "agreement", "consensus", "reconstruction"]

_MOST_TRIALS = 100_000


class Dimension(Section):
    """How one setting is drawn; exactly one of the kinds."""

    choice: list[Any] | None = Field(None, min_length=1, description="One of these values, drawn at random.")
    grid: list[Any] | None = Field(None, min_length=1, description="Each of these values, crossed with the others.")
    uniform: tuple[float, float] | None = Field(None, strict=False, description="A number between the two.")
    loguniform: tuple[float, float] | None = Field(
        None, strict=False, description="A number between the two, even in its log."
    )

    @model_validator(mode="after")
    def _one_sound_kind(self) -> "Dimension":
        kinds = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError("takes exactly one of choice, grid, uniform and loguniform")
        bounds = self.uniform or self.loguniform
        if bounds and not (math.isfinite(bounds[0]) and math.isfinite(bounds[1]) and bounds[0] < bounds[1]):
            raise ValueError(f"{kinds[0]} needs two numbers, the smaller first")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError("loguniform needs numbers above 0")
        return self

    @property
    def values(self) -> list[Any] | None:
        """All values, where they can be listed."""
        return self.choice if self.choice is not None else self.grid

    def probes(self) -> list[Any]:
        """Values that stand for all: every listed one; of a range its ends and one number between, as bounds of
        settings are intervals and whole-number settings refuse the number between."""
        if self.values is not None:
            return self.values
        low, high = self.uniform or self.loguniform or (0.0, 0.0)
        return [low, low + 0.381966 * (high - low), high]


class Search(Section):
    """How the space is searched, and what wins."""

    metric: MetricName = Field(
        "auto",
        description="What decides, mean over seeds. auto: acc (Hungarian accuracy) where there are labels, else "
        "agreement (chance-corrected agreement between arms).",
    )
    trials: int | None = Field(
        None,
        ge=1,
        description="Draws from the space; each draw meets every point of the grids. Default: 8, or 1 where "
        "all is a grid.",
    )
    seeds: int = Field(1, ge=1, description="Runs of every configuration, with seeds --seed, --seed + 1, ...")
    searcher: Literal["random", "optuna"] = Field(
        "random", description="random: independent draws, and grids. optuna: draws that learn from finished trials."
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        "none",
        description="none: every trial runs to its end. asha: trials that lag behind are stopped early. pbt: trials "
        "that lag behind go on from better ones with altered settings.",
    )
    grace_steps: int | None = Field(
        None, ge=1, description="asha: steps before a trial may be stopped; default: a quarter of its first run."
    )
    reduction: float = Field(3.0, gt=1, description="asha: one in so many trials goes on at each halt.")
    perturb_every: int | None = Field(
        None, ge=1, description="pbt: steps between exchanges; default: a fifth of the run."
    )
    max_concurrent: int | None = Field(None, ge=1, description="Trials at a time; default: as many as devices allow.")
    max_hours: float | None = Field(None, gt=0, description="Stop the search after this many hours; --resume goes on.")
    trial_failures: int = Field(3, ge=0, description="How often a trial starts again whose process died.")
    search_seed: int = Field(0, ge=0, lt=2**32, description="Seed of the draws.")

    def exchange_every(self, n_steps: int) -> int:
        """pbt: steps between exchanges in a run of ``n_steps``."""
        return self.perturb_every or max(1, n_steps // 5)


class SearchConfig(Section):
    """A search as a YAML file: sections run, space and search.

    ``space`` maps dotted names of settings (``model.n_arms``) to how they are drawn.
    """

    run: Config = Config()
    space: dict[str, Dimension] = Field(min_length=1)
    search: Search = Search()

    @model_validator(mode="after")
    def _parts_fit(self) -> "SearchConfig":
        grids = [name for name, dimension in self.space.items() if dimension.grid is not None]
        if len(grids) == len(self.space) and (self.search.trials or 1) > 1:
            raise ValueError("search.trials: all is a grid, so another draw would be the same; set seeds for repeats")
        if grids and self.search.searcher == "optuna":
            raise ValueError(f"space.{grids[0]}: optuna draws every value itself; use choice in place of grid")
        if self.n_trials() > _MOST_TRIALS:
            raise ValueError(f"space: this makes {self.n_trials():.3g} trials; leave at most {_MOST_TRIALS:,}")
        if self.search.scheduler == "pbt" and self.search.searcher == "optuna":
            raise ValueError("search: pbt alters settings by itself; use it with searcher random")
        if self.search.scheduler == "pbt" and self.search.seeds > 1:
            raise ValueError("search: pbt exchanges weights between trials, which have one seed each; set seeds to 1")
        return self

    @property
    def n_draws(self) -> int:
        """search.trials, or its default."""
        drawn = any(dimension.grid is None for dimension in self.space.values())
        return self.search.trials or (8 if drawn else 1)

    def n_trials(self) -> int:
        """Trials in all."""
        return self.n_draws * math.prod(len(d.grid) for d in self.space.values() if d.grid is not None)


def default_search() -> SearchConfig:
    """What is searched with nothing given: the handwritten digits inside scikit-learn, minutes on two cores."""
    return SearchConfig.model_validate(
        {
            "run": {"input": {"data": "digits"}, "training": {"max_steps": 1000}},
            "space": {
                "model.n_arms": {"grid": [1, 2]},
                "objective.lam": {"loguniform": [0.1, 10]},
                "model.n_categories": {"grid": [8, 10, 12]},
            },
            "search": {"trials": 2},
        }
    )
