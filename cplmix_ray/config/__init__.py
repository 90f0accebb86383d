"""Typed, frozen, validated settings of a run."""

from cplmix_ray.config.data import Input
from cplmix_ray.config.families import register_config
from cplmix_ray.config.files import load_config, parse_config, save_config
from cplmix_ray.config.placement import Placement
from cplmix_ray.config.presets import load_preset, preset_names
from cplmix_ray.config.run import RunConfig
from cplmix_ray.config.section import Section
from cplmix_ray.config.training import Training

__all__ = [
    "Input",
    "Placement",
    "RunConfig",
    "Section",
    "Training",
    "load_config",
    "load_preset",
    "parse_config",
    "preset_names",
    "register_config",
    "save_config",
]
