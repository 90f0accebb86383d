"""`python -m cplmix_ray.tune`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.cli.parser import Flag, parse_line
from cplmix_ray.cli.tune_reporter import Board, score_words
from cplmix_ray.config import Config
from cplmix_ray.config.files import load_search, parse_search
from cplmix_ray.config.search import Search, SearchConfig, default_search
from cplmix_ray.utils.errors import InputError, TrainingError

if TYPE_CHECKING:
    from cplmix_ray.distributed.plan import Devices, Plan
    from cplmix_ray.tuning.search import Findings


@dataclass(frozen=True)
class Tune:
    """Search over the number of arms, the coupling, the number of categories, and any other setting.

    Each trial trains coupled arms at one point of the search space; the trial whose categories fit the known types
    best (or, without labels, whose arms agree best) wins and is left as a trained model. With nothing given, searches
    on the handwritten digits inside scikit-learn. For cells:
    python -m cplmix_ray.tune tune_configs/cells.yaml --data cells.h5ad --labels-key cell_type --out my_search
    """

    config: tyro.conf.Positional[str | None] = None
    """YAML file with sections run, space and search; what stands on the line goes before run and search."""
    out: str | None = None
    """Folder for everything the search writes; default: runs/tune-<data>-<time>."""
    resume: Flag = False
    """Go on with the search in --out; trials that have ended are not run again, failed ones are tried again."""
    search: Search = field(default_factory=Search)
    run: tyro.conf.FlagConversionOff[Config] = field(default_factory=lambda: Config())


def parse_tune(args: list[str]) -> tuple[Tune, SearchConfig]:
    """The command line over the YAML file (or over the search that is resumed).

    Raises:
        InputError: the line or the file cannot be used, or a setting on the line is one that the file searches.
    """
    early = parse_line(Tune, args, "tune")
    base = default_search()
    if early.resume:
        if early.out is None:
            raise InputError("--resume needs --out with the folder of the search to go on with.")
        base = load_search(Path(early.out) / "search.yaml")
    elif early.config is not None:
        base = load_search(early.config)
    command = parse_line(Tune, args, "tune", Tune(search=base.search, run=base.run))
    spec = parse_search({"run": command.run, "space": base.space, "search": command.search}, "The search")
    for name in base.space:
        section, _, last = name.partition(".")
        if last and getattr(getattr(spec.run, section, None), last, None) != getattr(
            getattr(base.run, section, None), last, None
        ):
            raise InputError(f"--{last.replace('_', '-')} is searched; take {name} out of the file's space to fix it.")
    if early.resume:
        # Where and for how long a search goes on is free; all else would mix trials of different searches.
        search = spec.search.model_copy(update={"max_hours": base.search.max_hours})
        run = spec.run.model_copy(update={"placement": base.run.placement})
        if (search, run) != (base.search, base.run):
            raise InputError(
                "A search goes on with the settings that it began with; leave the line as --resume --out DIR, with "
                "--max-hours and where it runs if these are to change."
            )
    return command, spec


def tune(args: list[str]) -> None:
    """Search, export the best run, and say where everything is."""
    command, spec = parse_tune(args)
    # Heavy imports only now, so that --help and a wrong line answer at once.
    with loading():
        from cplmix_ray.cli.progress import shown_check
        from cplmix_ray.data.dataset import read_input, settle_disk
        from cplmix_ray.tuning.search import MODES, conduct_search
        from cplmix_ray.tuning.search_folder import SearchFolder
        from cplmix_ray.tuning.space import check_space

    folder = SearchFolder(command.out or _fresh_name(spec.run.input.data))
    folder.require_room(command.resume)
    check_space(spec)
    spec = spec.model_copy(update={"run": settle_disk(spec.run)})
    source = read_input(spec.run, shown_check())
    board: list[Board] = []

    def announce(metric: str, plans: Sequence["Plan"], devices: "Devices", n_steps: int) -> None:
        seeds = spec.search.seeds
        print(
            f"{source.name}: {source.n_cells} x {source.values_ng.shape[1]}; {spec.n_trials()} trials of "
            f"{seeds} seed{'s' if seeds > 1 else ''} and {n_steps} steps, {spec.search.searcher} search, scheduler "
            f"{spec.search.scheduler}; the best {metric} wins."
        )
        print(f"Searched: {', '.join(spec.space)}.")
        print(_sharing(plans, devices))
        print(f"Watch with: tensorboard --logdir {folder.tensorboard}", flush=True)
        board.append(Board(list(spec.space), spec.n_trials(), n_steps * seeds, metric, MODES[metric]))

    begun = time.monotonic()
    try:
        findings = conduct_search(spec, source, folder, announce, lambda trials: board[0].show(trials), print)
        board[0].end(findings.trials)
    finally:
        for each in board:
            each.stop()
    _tell(findings, spec, folder.path, time.monotonic() - begun)


def _tell(findings: "Findings", spec: SearchConfig, out: Path, seconds: float) -> None:
    """What came out, in words.

    Raises:
        TrainingError: the search was interrupted, or no trial ran to its end.
    """
    ended = [trial for trial in findings.trials if trial.ended]
    failed = sum(trial.status == "failed" for trial in ended)
    why = f", {failed} of them failed (see error in results.csv)" if failed else ""
    print(f"{len(ended)} trials ended in {seconds:.0f} s{why}.")
    if findings.best is not None:
        point = ", ".join(f"{name} = {_short(value)}" for name, value in findings.best.point.items())
        seeds = f"{spec.search.seeds} seed{'s' if spec.search.seeds > 1 else ''}"
        print(
            f"Best: trial {findings.best.name} with {point}: {findings.metric} {score_words(findings.best.report)} "
            f"over {seeds}. Results are in {out}: results.csv, figure.png, tensorboard/, best/ (its run with seed "
            f"{findings.seed}: model and result.h5ad)."
        )
    if len(ended) < spec.n_trials():
        if spec.search.max_hours is None or seconds < 3600 * spec.search.max_hours:
            raise TrainingError(f"The search was interrupted; --resume --out {out} goes on with it.")
        print(
            f"The {spec.search.max_hours:g} hours are over; --resume --out {out} goes on for as long again "
            f"(--max-hours changes that)."
        )
    if findings.best is None:
        raise TrainingError(f"No trial ran to its end; what they came to is in {out / 'results.csv'}.")


def _sharing(plans: Sequence["Plan"], devices: "Devices") -> str:
    """How trials share the devices, one clause for each number of arms."""
    gpu = plans[0].gpu
    count, unit = (devices.gpus, "GPU") if gpu else (devices.cpus, "CPU core")
    clauses = [
        f"{plan.n_arms} arm{'s' if plan.n_arms > 1 else ''} on {len(plan.workers)} "
        f"({count // len(plan.workers)} at a time)"
        for plan in plans
    ]
    there = f"{devices.where[0].upper()}{devices.where[1:]} has {count} {unit}{'s' if count != 1 else ''}"
    return f"{there}; a trial takes {', '.join(clauses)}."


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fresh_name(data: str) -> Path:
    return Path("runs") / f"tune-{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
