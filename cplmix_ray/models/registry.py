"""The model families by name."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from cplmix_ray.config import register_config
from cplmix_ray.config.run import RunConfig
from cplmix_ray.models.base import Family

if TYPE_CHECKING:  # workers need no reader of files
    from cplmix_ray.data.dataset import Dataset
    from cplmix_ray.data.source import Source

_BUILT_IN = ("cplmixvae", "vaegan")
"""Loaded when they are first asked for: most runs need one."""

_FAMILIES: dict[str, Family] = {}


def register_family(family: Family) -> Family:
    """Make a family and its settings known by name; registering it again, as on another worker, replaces it.

    Raises:
        ValueError: the name is that of another family.
    """
    register_config(family.config)
    known = _FAMILIES.get(family.name)
    if known is not None and type(known).__qualname__ != type(family).__qualname__:
        raise ValueError(f"there is another model family '{family.name}' already")
    _FAMILIES[family.name] = family
    return family


def family_of(config: RunConfig) -> Family:
    """The family of a run.

    Raises:
        KeyError: it was not registered in this process.
    """
    if config.family in _BUILT_IN and config.family not in _FAMILIES:
        importlib.import_module(f"cplmix_ray.models.{config.family}.family")
    return _FAMILIES[config.family]


def build_dataset(source: "Source", config: RunConfig, root: str | Path = "") -> "Dataset":
    """Prepare what was read for the model family of the settings; see :meth:`Family.build_dataset`."""
    return family_of(config).build_dataset(source, config, root)
