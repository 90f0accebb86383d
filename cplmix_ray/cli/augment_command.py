"""`cplmix augment` and `python -m cplmix_ray.augment`."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import tyro

from cplmix_ray.cli.output_paths import output_folder
from cplmix_ray.cli.parser import Flag
from cplmix_ray.cli.run_options import base_settings, parse_with_settings
from cplmix_ray.cli.train_and_report import train_model
from cplmix_ray.config import RunConfig

Settings = TypeVar("Settings", bound=RunConfig)


@dataclass(frozen=True)
class Augment(Generic[Settings]):
    """Learn an augmentation that preserves the type of a cell: train a VAE-GAN, to be used by train --copies learned.

    Without options, the handwritten digits included in scikit-learn are used. For cells:
    python -m cplmix_ray.augment --data cells.h5ad --hvg 2000 --out my_augmenter
    python -m cplmix_ray.train --data cells.h5ad --hvg 2000 --copies learned --augmenter my_augmenter
    """

    settings: tyro.conf.FlagConversionOff[Settings]
    config: str | None = None
    """YAML file of settings; command-line options override it."""
    out: str | None = None
    """Folder for all output; default: runs/augment-<data>-<time>."""
    resume: Flag = False
    """Continue the run in --out from its newest checkpoint, or start it if there is none."""


def parse_augment(args: list[str]) -> Augment[RunConfig]:
    """Settings of an augmenter: options override the YAML file or the run that is resumed, which override the defaults.

    Raises:
        InputError: an option or the file is invalid.
    """
    return parse_with_settings(Augment, args, "augment", Augment(settings=base_settings(args, "vaegan")))


def augment(args: list[str]) -> None:
    """Train an augmenter, measure its copies, and print the path of the results."""
    command = parse_augment(args)
    config = command.settings
    train_model(config, output_folder(command.out, command.resume, config.input.data, "augment-"), command.resume)
