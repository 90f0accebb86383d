"""The typed, frozen, validated configuration of a run."""

from cplmix_ray.config.arms import Model
from cplmix_ray.config.cells import Copies, Input
from cplmix_ray.config.files import load_config, save_config
from cplmix_ray.config.objective import Alignment, CouplingName, Objective
from cplmix_ray.config.presets import load_preset, preset_names
from cplmix_ray.config.running import Placement, Training
from cplmix_ray.config.schema import Config

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
