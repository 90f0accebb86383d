"""`cplmix train` and `python -m cplmix_ray.train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import tyro

from cplmix_ray.cli.output_paths import output_folder
from cplmix_ray.cli.parser import Flag, loading, peek
from cplmix_ray.cli.run_options import base_settings, chosen_preset, parse_with_settings, preset_note
from cplmix_ray.cli.train_and_report import train_model
from cplmix_ray.cli.train_seeds import train_seeds
from cplmix_ray.config import RunConfig
from cplmix_ray.utils.errors import InputError

Settings = TypeVar("Settings", bound=RunConfig)


@dataclass(frozen=True)
class Train(Generic[Settings]):
    """Find cell types and states without labels: train coupled autoencoders that agree on the category of each cell.

    Without options, two arms are trained on the handwritten digits included in scikit-learn. For cells:
    python -m cplmix_ray.train --data cells.h5ad --n-categories 20 --out my_run

    Few runs need other options than these, --layer (raw counts that are not in X), --labels-key (known types, for
    scores) and --resume. The defaults shown are those for the digits; give --data too to see those for your data.
    """

    settings: tyro.conf.FlagConversionOff[Settings]
    preset: str | None = None
    """Preset to start from: cells, dsprites, mnist, mnist_printed or published (the published objective); default: the
    one that suits the data. The files are in cplmix_ray/presets."""
    config: str | None = None
    """YAML file of settings, instead of a preset; command-line options override it."""
    out: str | None = None
    """Folder for all output of the run; default: runs/<data>-<time>."""
    resume: Flag = False
    """Continue the run in --out from its newest checkpoint, or start it if there is none."""
    seeds: int | None = None
    """Train this many times, with the seeds --seed, --seed + 1, ..., each in a folder seed-S of --out. The result is
    their consensus, and stability.csv says how often each category comes back. Default: one run."""


def parse_train(args: list[str]) -> Train[RunConfig]:
    """Settings of a run: options override those of the preset, YAML file or resumed run. Without any of these, the
    preset is the one that suits the data.

    Raises:
        InputError: an option or the file is invalid, or both a preset and a file are given.
    """
    return parse_with_settings(Train, args, "train", Train(settings=base_settings(args)))


def train(args: list[str]) -> None:
    """Train, write the run folder, and print its path."""
    command = parse_train(args)
    config = command.settings
    chosen = chosen_preset(args)
    notes = [] if chosen is None else [preset_note(chosen)]
    if chosen == "cells" and not any(peek(args, "n-categories", "n_categories", "model.n-categories").values()):
        notes.append(
            f"--n-categories is not given: {config.model_dump()['model']['n_categories']} categories; give the number "
            "of types that you expect."
        )
    out = output_folder(command.out, command.resume, config.input.data)
    n_seeds = command.seeds
    if n_seeds is None and command.resume:
        n_seeds = _seeds_of(out)
    if n_seeds is None:
        train_model(config, out, command.resume, notes)
    elif n_seeds < 2:
        raise InputError(f"--seeds {n_seeds} is no comparison; give two or more, or leave it out for one run.")
    else:
        train_seeds(config, out, command.resume, n_seeds, notes)


def _seeds_of(out: Path) -> int | None:
    """The number of runs that are to be resumed; None for a single run."""
    with loading():
        from cplmix_ray.checkpoints.seeds_folder import SeedsFolder

    return SeedsFolder(out).n_seeds()
