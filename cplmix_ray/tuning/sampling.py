"""Points of the search space as Ray Tune draws them."""

from typing import Any

import numpy as np
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from cplmix_ray.config.search import Dimension

Space = dict[str, Dimension]
Point = dict[str, Any]


def draw_points(space: Space, n_draws: int, seed: int) -> list[Point]:
    """All points of a random search or a grid, in their order; the same again from the same seed.

    Each of the draws meets every point of the grids, with ranges and choices drawn anew for each.
    """
    random = np.random.default_rng(seed)
    domains = {"config": domains_of(space)}
    return [spec["config"] for _ in range(n_draws) for _, spec in generate_variants(domains, False, random)]


def domains_of(space: Space) -> dict[str, Any]:
    """The space in Ray Tune's terms."""
    return {name: domain_of(dimension) for name, dimension in space.items()}


def domain_of(dimension: Dimension) -> Any:
    """One dimension in Ray Tune's terms."""
    if dimension.choice is not None:
        return tune.choice(dimension.choice)
    if dimension.grid is not None:
        return tune.grid_search(dimension.grid)
    if dimension.uniform is not None:
        return tune.uniform(*dimension.uniform)
    assert dimension.loguniform is not None
    return tune.loguniform(*dimension.loguniform)


def within(space: Space, point: Point) -> Point:
    """An altered point put back into its ranges, as Ray Tune multiplies numbers without looking at these."""
    bounds = {name: dimension.uniform or dimension.loguniform for name, dimension in space.items()}
    inside = {name: min(max(point[name], range_[0]), range_[1]) for name, range_ in bounds.items() if range_}
    return {**point, **inside}
