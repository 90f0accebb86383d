"""Points of the search space as settings of a run, checked before anything starts."""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import ValidationError

from cplmix_ray.config import Config
from cplmix_ray.config.files import describe
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.utils.errors import InputError

_MID_RUN = {"objective.lam", "objective.beta", "training.lr", "training.clip", "model.tau", "model.gumbel_temperature"}
"""Settings that a run may change in the middle: no shape, no data and no count depends on them."""


def config_at(run: Config, point: dict[str, Any], seed: int | None = None) -> Config:
    """The settings of a run at a point of the space.

    Args:
        point: dotted names -> values.

    Raises:
        InputError: a name is unknown or a value is out of bounds.
    """
    tree = run.model_dump()
    for name, value in point.items():
        home, _, last = name.rpartition(".")
        section = tree.get(home) if home else tree
        if not isinstance(section, dict) or last not in section or isinstance(section[last], dict):
            raise InputError(f"space.{name}: there is no such setting; names are like model.n_arms or objective.lam.")
        section[last] = value.item() if isinstance(value, np.generic) else value
    if seed is not None:
        tree["seed"] = seed
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise InputError(f"space: {describe(error)}; see python -m cplmix_ray.train --help for bounds.") from None


def point_of(run: Config, names: Iterable[str]) -> dict[str, Any]:
    """The point of the space at which a run stands: dotted names -> values."""
    return {name: functools.reduce(getattr, name.split("."), run) for name in names}


def check_space(spec: SearchConfig) -> None:
    """Try every kind of value of every dimension on the base run.

    Raises:
        InputError: a name is unknown, a value is out of bounds, or the scheduler cannot vary the setting.
    """
    for name, dimension in spec.space.items():
        if name == "seed" or name.startswith("placement."):
            raise InputError(f"space.{name}: this is not for a search; seeds are set by search.seeds.")
        if name in ("training.max_steps", "training.epochs", "training.batch_size"):
            raise InputError(f"space.{name}: trials are compared at equal steps, so this stays the same for all.")
        if spec.search.scheduler == "pbt" and name not in _MID_RUN:
            allowed = ", ".join(sorted(_MID_RUN))
            raise InputError(f"space.{name}: pbt alters settings in mid-run, so it can vary only {allowed}.")
        for value in dimension.probes():
            config_at(spec.run, {name: value})


def every_value(spec: SearchConfig, name: str) -> list[Any]:
    """All values that a listed setting can take; of one that is not searched, the base run's."""
    dimension = spec.space.get(name)
    if dimension is None:
        section, _, last = name.partition(".")
        return [getattr(getattr(spec.run, section), last)]
    return dimension.probes()
