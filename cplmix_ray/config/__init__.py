"""The typed, frozen, validated configuration of a run."""

from cplmix_ray.config.files import load_config, save_config
from cplmix_ray.config.presets import load_preset, preset_names
from cplmix_ray.config.schema import (
    Alignment,
    Config,
    Copies,
    CouplingName,
    Input,
    Model,
    Objective,
    Placement,
    Training,
)

__all__ = [
    "Alignment",
    "Config",
    "Copies",
    "CouplingName",
    "Input",
    "Model",
    "Objective",
    "Placement",
    "Training",
    "load_config",
    "load_preset",
    "preset_names",
    "save_config",
]
