"""`cplmix prune` and `python -m cplmix_ray.prune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from cplmix_ray.cli.output_paths import output_folder
from cplmix_ray.cli.parser import Flag, loading, parse_line
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_folder
from cplmix_ray.utils.progress import Display, shown_check


@dataclass(frozen=True)
class Prune:
    """Find the number of categories: start from a run with too many, and remove those on which its arms agree least.

    Train with two or three times as many categories as you expect, for example --n-categories 30 for 10 to 15 types,
    then prune. Categories are removed step by step, each time with a short training of the rest, and the number is
    chosen at the end: the most categories of which all reach --min-consensus. The consensus on a category is the share
    of the cells to which at least one of two arms gives it that both give it to; 1 if they always agree.

    The folder that is written is that of a run with the chosen number: predict, evaluate and de take it. The whole
    curve is in pruning.csv in it, the models of all other numbers in stages.
    """

    run: tyro.conf.Positional[str]
    """Folder of the run, as given to train with --out. It is not changed."""
    out: str | None = None
    """Folder for all output; default: runs/prune-<data>-<time>."""
    resume: Flag = False
    """Continue the pruning in --out. With another --rule or --min-consensus, only the choice is made again."""
    rule: Literal["consensus", "knee"] = "consensus"
    """consensus: the most categories of which all reach --min-consensus, or the knee if there are none. knee: the
    number at which the curve of the smallest consensus bends."""
    min_consensus: float = 0.9
    """Consensus that all categories have to reach, from 0 to 1. Lower values keep more categories."""
    min_categories: int = 1
    """Number of categories at which to stop."""
    at_once: int | None = None
    """Number of categories that are removed at a time; default: a tenth of those that are left, at least 1."""
    retrain_steps: int = 50
    """Number of training steps after each removal."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_consensus <= 1:
            raise InputError(f"--min-consensus {self.min_consensus:g} is no share; give a number from 0 to 1.")
        for option in ("min_categories", "at_once", "retrain_steps"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise InputError(f"--{option.replace('_', '-')} {value} is too small; give 1 or more.")


def prune(args: list[str]) -> None:
    """Prune a run, print a line for each stage and the choice, and print the path of the results."""
    command = parse_line(Prune, args, "prune")
    with loading():
        from cplmix_ray.evaluation.trained_model import settings_of
        from cplmix_ray.pruning.prune import checkpoint_of_run

    config = settings_of(checkpoint_of_run(command.run))
    out = output_folder(command.out, command.resume, config.input.data, "prune-")
    display = Display()
    with lock_folder(out, display.say):
        _prune(command, out, display)


def _prune(command: Prune, out: Path, display: Display) -> None:
    with loading():
        from cplmix_ray.data.io.read import read_input
        from cplmix_ray.evaluation.trained_model import settings_of
        from cplmix_ray.models.registry import build_dataset
        from cplmix_ray.pruning.choice import choose
        from cplmix_ray.pruning.measures import HeldOut
        from cplmix_ray.pruning.prune import Pruning, checkpoint_of_run
        from cplmix_ray.pruning.stages import Retraining, Row

    checkpoint = checkpoint_of_run(command.run)
    config = settings_of(checkpoint)
    pruning = Pruning(
        out, command.min_categories, command.at_once, Retraining(command.retrain_steps, 0.3 * config.training.lr)
    )
    source = read_input(config, shown_check())
    data = build_dataset(source, config)
    for note in data.notes:
        display.say(note)
    held_out = HeldOut.of(source, data.training, config.seed)

    def ended(row: Row) -> None:
        display.say(
            f"{row['categories']} categories: smallest consensus {row['min_consensus']:.3f}, mean {row['mean_consensus']:.3f}"
        )

    pruning.run(Path(command.run), data, held_out, display, ended)
    curve = pruning.curve()
    at, why = choose(curve["categories"].tolist(), curve["min_consensus"].tolist(), command.rule, command.min_consensus)
    pruning.export(int(curve["categories"].iloc[at]), source)
    display.say(f"{why[0].upper()}{why[1:]}.")
    display.say(f"Results are in {out}: pruning.csv")
