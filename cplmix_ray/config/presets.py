"""Recipes that ship with the package, by name."""

from importlib import resources

from cplmix_ray.config.files import load_config
from cplmix_ray.config.schema import Config
from cplmix_ray.utils.errors import InputError

_FOLDER = resources.files("cplmix_ray") / "presets"


def preset_names() -> list[str]:
    """Names that ``load_preset`` knows."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str) -> Config:
    """The settings of a recipe.

    Raises:
        InputError: there is none of that name.
    """
    if name not in preset_names():
        raise InputError(f"There is no preset '{name}'; choose among {', '.join(preset_names())}.")
    with resources.as_file(_FOLDER / f"{name}.yaml") as path:
        return load_config(path)
