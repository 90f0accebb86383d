"""Presets that are part of the package."""

from importlib import resources

from cplmix_ray.config.families import validate_run
from cplmix_ray.config.run import RunConfig
from cplmix_ray.config.yaml_file import read_yaml
from cplmix_ray.utils.errors import InputError

_FOLDER = resources.files("cplmix_ray") / "presets"

DEFAULT_PRESET = "mnist"
"""Preset of the default data set, the digits of scikit-learn. That of other data is chosen by their format."""


def preset_names() -> list[str]:
    """Names of all presets."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _FOLDER.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str) -> RunConfig:
    """The settings of a preset.

    Raises:
        InputError: there is no preset of that name.
    """
    if name not in preset_names():
        raise InputError(f"There is no preset '{name}'; choose one of {', '.join(preset_names())}.")
    with resources.as_file(_FOLDER / f"{name}.yaml") as path:
        return validate_run(read_yaml(path, "preset") or {})
