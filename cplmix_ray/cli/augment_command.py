"""`python -m cplmix_ray.augment`."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.cli.parser import parse_line, peek
from cplmix_ray.cli.progress import Display, shown_check
from cplmix_ray.config.augment import AugmentConfig
from cplmix_ray.config.files import load_augment
from cplmix_ray.utils.errors import InputError, TrainingError


@dataclass(frozen=True)
class Augment:
    """Learn to make copies of cells that keep the cell's type: train a VAE-GAN, to be used by train --copies learned.

    With nothing given, learns from the handwritten digits inside scikit-learn. For cells:
    python -m cplmix_ray.augment --data cells.h5ad --hvg 2000 --out my_augmenter
    python -m cplmix_ray.train --data cells.h5ad --hvg 2000 --copies learned --augmenter my_augmenter
    """

    config: str | None = None
    """YAML file of settings; what stands on the line goes before it."""
    out: str | None = None
    """Folder for everything that is written; default: runs/augment-<data>-<time>."""
    settings: tyro.conf.FlagConversionOff[AugmentConfig] = field(default_factory=lambda: AugmentConfig())


def parse_augment(args: list[str]) -> Augment:
    """The command line over the YAML file, over the defaults."""
    early = peek(args, "config")
    settings = load_augment(early["config"]) if early["config"] else AugmentConfig()
    return parse_line(Augment, args, "augment", Augment(settings=settings))


def augment(args: list[str]) -> None:
    """Train an augmenter, measure its copies, and say where it is."""
    command = parse_augment(args)
    config, display = command.settings, Display()
    out = Path(command.out) if command.out else _fresh_name(config.input.data)
    # Heavy imports only now, so that --help and a wrong line answer at once.
    with loading():
        import torch

        from cplmix_ray.data.dataset import read_input
        from cplmix_ray.training.augment import conduct_augmenter, prepare_task, require_room

    if config.training.device == "cuda" and not torch.cuda.is_available():
        raise InputError("There is no GPU for --device cuda; use --device cpu or leave it out.")
    require_room(out)
    source = read_input(config, shown_check())
    task = prepare_task(config, source)
    for note in (*source.notes, *task.notes):
        display.say(note)
    display.say(
        f"{source.name}: {source.n_cells} x {task.shape.n_features}, {len(task.cells.train_idx)} train, "
        f"{len(task.cells.val_idx)} validate; seed {config.seed}."
    )
    display.begin(0, config.training.max_steps)
    try:
        metrics = conduct_augmenter(config, task, out, display)
    except KeyboardInterrupt:
        raise TrainingError("Interrupted; the augmenter is written at the end, so start it anew.") from None
    finally:
        display.end()
    display.say(f"Trained {metrics['steps']} steps in {metrics['seconds']:.1f} s.")
    for line in quality_lines(metrics):
        display.say(line)
    display.say(f"Results are in {out}: augmenter.safetensors, manifest.json, metrics.json, tensorboard/.")


def quality_lines(metrics: dict[str, Any]) -> list[str]:
    """The quality of the copies in words."""
    lines = [
        f"Copies of the {metrics['n_measured']:g} {metrics['measured_on']} cells are {metrics['copy_distance']:.3g} of "
        f"a cell's norm away from it, without noise {metrics['noise_free_distance']:.3g}."
    ]
    if "type_kept" in metrics:
        lines.append(
            f"{metrics['type_kept']:.1%} of the copies keep their type by a classifier that is right on "
            f"{metrics['classifier_accuracy']:.1%} of the cells; {metrics['type_true']:.1%} have the known type; "
            f"without noise {metrics['noise_free_kept']:.1%} keep theirs."
        )
    to = {"within": "cells of one type", "between": "cells of different types", "any": "any two cells"}
    ratios = [f"{metrics[f'diversity_{k}']:.3g} of that of {w}" for k, w in to.items() if f"diversity_{k}" in metrics]
    if ratios:
        lines.append(f"Two copies of a cell differ by {metrics['copy_diversity']:.3g}: {', '.join(ratios)}.")
    return lines


def _fresh_name(data: str) -> Path:
    return Path("runs") / f"augment-{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
