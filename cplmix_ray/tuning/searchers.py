"""Points of the search space: random draws and grids, or Optuna's suggestions, as Ray Tune takes them."""

import math
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.variant_generator import generate_variants

from cplmix_ray.config.search import Dimension
from cplmix_ray.tuning.search_setup import SearchSetup, SearchState
from cplmix_ray.utils.errors import InputError

Space = dict[str, Dimension]
Point = dict[str, Any]


def draw_points(space: Space, n_draws: int, seed: int) -> list[Point]:
    """All points of a random search or a grid, in their order; the same again from the same seed.

    Each of the draws meets every point of the grids, with ranges and choices drawn again for each.
    """
    random = np.random.default_rng(seed)
    domains = {"config": tune_space(space)}
    return [spec["config"] for _ in range(n_draws) for _, spec in generate_variants(domains, False, random)]


def tune_space(space: Space) -> dict[str, Any]:
    """The space in Ray Tune's terms."""
    return {name: _domain(dimension) for name, dimension in space.items()}


def _domain(dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return tune.choice(dimension.choice)
    if dimension.grid is not None:
        return tune.grid_search(dimension.grid)
    return tune.uniform(*dimension.bounds) if dimension.uniform else tune.loguniform(*dimension.bounds)


def clip_to_ranges(space: Space, point: Point) -> Point:
    """A point with its numbers inside the ranges of the space."""
    bounds = {name: dimension.bounds for name, dimension in space.items() if dimension.values is None}
    return {**point, **{name: min(max(point[name], low), high) for name, (low, high) in bounds.items()}}


def tune_config(name: str, point: Point) -> dict[str, Any]:
    """A trial in Ray Tune's settings."""
    return {"trial": {"name": name, "point": point}}


def make_searcher(setup: SearchSetup, state: SearchState) -> tuple[Any, dict[str, Any]]:
    """The searcher of a search, and the parameter space that Ray Tune is given beside it.

    Raises:
        InputError: the searcher is not installed.
    """
    search = setup.spec.search
    if search.searcher == "optuna":
        return _Optuna(setup, state), {}
    # All points are known, so the space is a grid of them. Ray Tune heeds a limit of its own generator alone; a
    # population must be there as a whole, and takes turns where devices are few.
    limit = None if search.scheduler == "pbt" else search.max_concurrent
    configs = [tune_config(name, point)["trial"] for name, point in state.trials]
    return BasicVariantGenerator(max_concurrent=limit or 0), {"trial": tune.grid_search(configs)}


class _Optuna(Searcher):
    """Optuna's points, with the names of their trials.

    A resumed search tells Optuna the scores of the trials that have ended, and first suggests the points of those that
    continue. Its own draws then begin from another seed: from the same one it would draw its first points once more.
    """

    def __init__(self, setup: SearchSetup, state: SearchState):
        super().__init__(metric="score", mode=setup.mode)
        try:
            import optuna
            from ray.tune.search.optuna import OptunaSearch
        except ImportError:
            raise InputError(
                "--searcher optuna needs Optuna: pip install 'cplmix_ray[optuna]', or use --searcher random."
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        n_drawn = len(state.ended) + len(state.trials)
        seed = setup.spec.search.search_seed
        if n_drawn:
            seed = int(np.random.SeedSequence([seed, n_drawn]).generate_state(1)[0])
        self.optuna = OptunaSearch(
            OptunaSearch.convert_search_space(tune_space(setup.spec.space)),
            metric="score",
            mode=setup.mode,
            points_to_evaluate=[point for _, point in state.trials],
            seed=seed,
        )
        for trial in state.ended:
            score = trial.report.get("score")
            if trial.status == "failed" or score is None:
                self.optuna.add_evaluated_point(trial.point, math.nan, error=True)
            else:
                self.optuna.add_evaluated_point(trial.point, score)
        self.names = [name for name, _ in state.trials]
        self.folder = setup.folder

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        point = self.optuna.suggest(trial_id)
        if point is None:
            return None
        return tune_config(self.names.pop(0) if self.names else self.folder.next_trial(), point)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        self.optuna.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        failed = error or "failed" in (result or {})
        self.optuna.on_trial_complete(trial_id, None if failed else result, failed)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a search is resumed from the records of its trials."""
