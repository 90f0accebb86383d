"""Points of the search space as settings of a run, checked before anything starts."""

import contextlib
from typing import Any

import numpy as np
from pydantic import ValidationError

from cplmix_ray.config import RunConfig
from cplmix_ray.config.families import describe, validate_run
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.utils.errors import InputError

AXIS_LABELS = {"model.n_arms": "arms A", "objective.lam": "coupling $\\lambda$", "model.n_categories": "categories |c|"}
"""How figures call some settings."""


def config_at(run: RunConfig, point: dict[str, Any], seed: int | None = None) -> RunConfig:
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
        return validate_run(tree)
    except ValidationError as error:
        raise InputError(f"space: {describe(error)}; see python -m cplmix_ray.train --help for bounds.") from None


def check_point(spec: SearchConfig, point: dict[str, Any]) -> None:
    """Check a point that was read from a file.

    Raises:
        InputError: it is not a point of this search's space, or a value is out of bounds.
    """
    if set(point) != set(spec.space):
        raise InputError("its point is not one of this search")
    config_at(spec.run, point)


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
        if spec.search.scheduler == "pbt" and name not in spec.run.variable_settings:
            allowed = ", ".join(sorted(spec.run.variable_settings))
            raise InputError(f"space.{name}: pbt alters settings in mid-run, so it can vary only {allowed}.")
        for value in dimension.probes():
            config_at(spec.run, {name: value})


def possible_runs(spec: SearchConfig) -> list[RunConfig]:
    """Settings of runs that stand for all that the space allows: each kind of value of each dimension once, with the
    first values of the others. Values that do not go together, which fail their trial alone, are left out.
    """
    first = {name: dimension.probes()[0] for name, dimension in spec.space.items()}
    runs = []
    for name, dimension in spec.space.items():
        for value in dimension.probes():
            with contextlib.suppress(InputError):
                runs.append(config_at(spec.run, {**first, name: value}))
    return runs or [spec.run]
