"""`cplmix prune` and `python -m cplmix_ray.prune`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from cplmix_ray.cli.output_paths import output_folder
from cplmix_ray.cli.parser import Flag, loading, parse_line
from cplmix_ray.cli.score_line import score_line
from cplmix_ray.config import Placement
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.output_lock import lock_folder
from cplmix_ray.utils.progress import Display, shown_check

if TYPE_CHECKING:
    from cplmix_ray.pruning.prune import Retrain
    from cplmix_ray.pruning.stages import Row, Workbench

_LR = 0.3
"""Learning rate of the retraining, as a share of that of the run."""


@dataclass(frozen=True)
class Prune:
    """Find the number of categories: begin with too many, and remove those on which the arms agree least.

    Train a run with two or three times as many categories as you expect, then prune it:
    python -m cplmix_ray.train --data cells.h5ad --n-categories 30 --out run
    python -m cplmix_ray.prune run --out pruned

    Categories are removed step by step, and the others trained for a moment each time. At the end the number is chosen
    from the whole curve, without labels. The consensus on a category is measured between two arms: of the cells to
    which at least one of them gives the category, the share to which both do. It is 1 if the arms always agree.

    The folder that is written is that of a run with the chosen number of categories, so that predict, evaluate and de
    take it. In it, pruning.csv has the curve, with labels also the scores, and stages/ the models of all numbers.
    """

    run: tyro.conf.Positional[str]
    """Folder of the run, as given to train with --out. It is not changed."""
    out: str | None = None
    """Folder for all output; default: runs/prune-<data>-<time>."""
    resume: Flag = False
    """Continue the pruning in --out; what is done is not repeated. With another --rule, --min-consensus or
    --min-categories, the number is chosen again."""
    rule: Literal["consensus", "knee"] = "consensus"
    """How the number is chosen. consensus: the most categories that all reach --min-consensus, or as with knee if there
    are none. knee: where the curve of the smallest consensus bends."""
    min_consensus: float = 0.95
    """Consensus that every category has to reach, between 0 and 1. With a lower value more categories remain."""
    min_categories: int = 1
    """Number of categories at which the removal ends."""
    at_once: int | None = None
    """Number of categories that are removed at a time; default: a tenth of those that are left, at least 1. Categories
    on which no cell is agreed are removed together."""
    retrain_steps: int = 100
    """Number of training steps after each removal."""
    candidates: int = 1
    """Try the removal of each of this many weak categories, and keep the model that reconstructs held-out cells
    best."""
    engine: Literal["local", "ray"] = "local"
    """local: candidates are trained one after the other. ray: in parallel, each on a CPU core or GPU of this machine or
    of the Ray cluster that RAY_ADDRESS or the run names, whose machines must share the folder of --out."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_consensus <= 1:
            raise InputError(f"--min-consensus {self.min_consensus:g} is no share; give a number between 0 and 1.")
        for name in ("min_categories", "at_once", "retrain_steps", "candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} {value} is too small; give 1 or more.")


def prune(args: list[str]) -> None:
    """Prune a run, print a line for each stage and the choice, and print the path of the results."""
    command = parse_line(Prune, args, "prune")
    with loading():
        from cplmix_ray.evaluation.trained_model import settings_of
        from cplmix_ray.pruning.prune import run_to_prune

    data = settings_of(run_to_prune(command.run)).input.data
    out, display = output_folder(command.out, command.resume, data, "prune-"), Display("categories removed:")
    with lock_folder(out, display.say):
        try:
            _prune(command, out, display)
        finally:
            display.end()


def _prune(command: Prune, out: Path, display: Display) -> None:
    with loading():
        from cplmix_ray.checkpoints.run_folder import RunFolder
        from cplmix_ray.data.io.read import read_input
        from cplmix_ray.evaluation.trained_model import settings_of
        from cplmix_ray.models.registry import build_dataset, family_of
        from cplmix_ray.pruning.choice import choose
        from cplmix_ray.pruning.measures import HeldOut
        from cplmix_ray.pruning.prune import Pruning, run_to_prune
        from cplmix_ray.pruning.stages import Workbench
        from cplmix_ray.runs.resume import with_kept_inputs

    checkpoint = run_to_prune(command.run)
    run = RunFolder(checkpoint.path.parent.parent)  # of several seeds, that of one of them
    config = with_kept_inputs(run, settings_of(checkpoint))
    pruning = Pruning(out.absolute(), command.min_categories, command.at_once, command.candidates)
    pruning.require_room(checkpoint, command.resume)
    source = read_input(config, shown_check())
    data = build_dataset(source, config)
    for note in data.notes:
        display.say(note)
    held_out = HeldOut.of(source, data.training, config.seed)
    workbench = Workbench(data, held_out, command.retrain_steps, _LR * config.training.lr)
    first = family_of(config).facts(config)["n_categories"]

    def ended(row: "Row") -> None:
        display.say(_line(row))
        display.advance(first - row["categories"], {})

    pruning.begin(run.path, workbench, ended)
    left = int(pruning.curve()["categories"].iloc[-1])
    if left > command.min_categories:
        display.begin(first - left, first - command.min_categories)
        with _retraining(workbench, command.engine, config.placement) as retrain:
            pruning.run(retrain, ended)
    curve = pruning.curve()
    curve = curve[curve["categories"] >= command.min_categories]
    at, why = choose(curve["categories"].tolist(), curve["min_consensus"].tolist(), command.rule, command.min_consensus)
    result = pruning.export(int(curve["categories"].iloc[at]), source)
    display.say(f"Chosen: {why}")
    scores = score_line("All cells", result.metrics)
    if scores:
        display.say(scores)
    display.say(f"Results are in {out}: result.h5ad, pruning.csv, categories.csv, metrics.json, checkpoints/, stages/.")


@contextlib.contextmanager
def _retraining(workbench: "Workbench", engine: str, placement: Placement) -> "Iterator[Retrain]":
    """A function that trains the alternatives of a stage on the engine."""
    from cplmix_ray.pruning.stages import Workbench

    if engine == "local":
        yield lambda jobs: [workbench.retrain(*job) for job in jobs]
        return
    from cplmix_ray.distributed.tasks import ray_tasks

    with ray_tasks(workbench, placement) as run:
        yield lambda jobs: run(Workbench.retrain, jobs)


def _line(row: "Row") -> str:
    """What a stage is shown by."""
    figures = {
        "smallest consensus": row["min_consensus"],
        "mean": row["mean_consensus"],
        "agreement of halves": row["agreement_of_halves"],
        "ACC": row["acc"],
        "ARI": row["ari"],
    }
    shown = ", ".join(f"{name} {value:.3f}" for name, value in figures.items() if value is not None)
    return f"K = {row['categories']}: {shown}"
