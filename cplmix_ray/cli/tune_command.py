"""`python -m cplmix_ray.tune`."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import tyro

from cplmix_ray.cli.output_paths import output_folder
from cplmix_ray.cli.parser import Flag, loading, peek
from cplmix_ray.cli.run_options import chosen_preset, parse_with_settings, preset_note
from cplmix_ray.cli.tune_reporter import TuneReporter, format_score
from cplmix_ray.config import RunConfig
from cplmix_ray.config.files import load_search, parse_search
from cplmix_ray.config.presets import DEFAULT_PRESET
from cplmix_ray.config.search import Search, SearchConfig, default_search
from cplmix_ray.utils.errors import InputError, TrainingError
from cplmix_ray.utils.output_lock import lock_folder

if TYPE_CHECKING:
    from cplmix_ray.tuning.search import SearchResult
    from cplmix_ray.tuning.search_setup import SearchSetup


Settings = TypeVar("Settings", bound=RunConfig)


@dataclass(frozen=True)
class Tune(Generic[Settings]):
    """Search over the number of arms, the coupling, the number of categories, and any other setting.

    Each trial trains coupled arms with one combination of settings. The best trial is the one whose categories match
    the known types best or, without labels, whose arms agree best; its trained model is kept. Without options, the
    handwritten digits included in scikit-learn are used. For cells:
    python -m cplmix_ray.tune tune_configs/cells.yaml --data cells.h5ad --labels-key cell_type --out my_search
    """

    run: tyro.conf.FlagConversionOff[Settings]
    config: tyro.conf.Positional[str | None] = None
    """YAML file with the sections run, space and search; command-line options override run and search."""
    out: str | None = None
    """Folder for all output of the search; default: runs/tune-<data>-<time>."""
    resume: Flag = False
    """Continue the search in --out; finished trials are not run again, failed ones are."""
    search: Search = field(default_factory=Search)


def parse_tune(args: list[str]) -> tuple[Tune[RunConfig], SearchConfig]:
    """Parse the command line, whose options override the YAML file (or the settings of the search that is resumed).

    Raises:
        InputError: the line or the file cannot be used, or an option sets what the file searches.
    """
    early, file = peek(args, "out", "resume"), _positional(args)
    resume = early["resume"] is not None
    if resume:
        if not early["out"]:
            raise InputError("--resume requires the folder of the search; give it with --out.")
        base = load_search(Path(early["out"]) / "search.yaml")
    elif file is not None:
        base = load_search(file)
    else:
        base = default_search(chosen_preset(args) or DEFAULT_PRESET)
    command = parse_with_settings(Tune, args, "tune", Tune(base.run, search=base.search))
    spec = parse_search({"run": command.run, "space": base.space, "search": command.search}, "The search")
    for name in base.space:
        section, _, last = name.partition(".")
        if last and getattr(getattr(spec.run, section, None), last, None) != getattr(
            getattr(base.run, section, None), last, None
        ):
            raise InputError(
                f"--{last.replace('_', '-')} is in the search space; remove {name} from the file's space to fix it."
            )
    if resume:
        # Devices and duration may change; other changes would mix trials of different searches.
        search = spec.search.model_copy(update={"max_hours": base.search.max_hours})
        run = spec.run.model_copy(update={"placement": base.run.placement})
        if (search, run) != (base.search, base.run):
            raise InputError(
                "A resumed search keeps its settings; only --max-hours and the options of placement may change. Remove "
                "the other options after --resume --out DIR."
            )
    return command, spec


def _positional(args: list[str]) -> str | None:
    """The argument that is neither an option nor its value."""
    before = ["--resume", *args]
    found = [
        arg
        for option, arg in zip(before, args, strict=False)
        if not arg.startswith("-") and (not option.startswith("--") or option == "--resume" or "=" in option)
    ]
    return found[0] if found else None


def tune(args: list[str]) -> None:
    """Run a search, export the best run, and print where everything is."""
    command, spec = parse_tune(args)
    out = output_folder(command.out, command.resume, spec.run.input.data, "tune-")
    if not command.resume and command.config is None:
        print(preset_note(chosen_preset(args) or DEFAULT_PRESET))
    with lock_folder(out):
        _tune_in_locked_folder(spec, out, command.resume)


def _tune_in_locked_folder(spec: SearchConfig, out: Path, resume: bool) -> None:
    # Slow imports are delayed, so that --help and invalid options are answered at once.
    with loading():
        from cplmix_ray.data.io.read import read_input, settle_disk
        from cplmix_ray.tuning.search import run_search
        from cplmix_ray.tuning.search_folder import SearchFolder
        from cplmix_ray.tuning.space import check_space
        from cplmix_ray.utils.progress import shown_check

    folder = SearchFolder(out)
    folder.require_room(resume)
    check_space(spec)
    spec = spec.model_copy(update={"run": settle_disk(spec.run)})
    source = read_input(spec.run, shown_check())
    for note in source.notes:
        print(note)
    reporters: list[TuneReporter] = []

    def announce(setup: "SearchSetup") -> None:
        seeds, n_steps = spec.search.seeds, setup.n_steps
        print(
            f"{source.name}: {source.n_cells} x {source.matrix.shape[1]}; {spec.n_trials()} trials of "
            f"{seeds} seed{'s' if seeds > 1 else ''} and {n_steps} steps, {spec.search.searcher} search, scheduler "
            f"{spec.search.scheduler}; ranked by {setup.metric}."
        )
        print(f"Searched: {', '.join(spec.space)}.")
        print(_describe_devices(setup))
        print(f"To watch the search: tensorboard --logdir {folder.tensorboard}", flush=True)
        reporters.append(TuneReporter(list(spec.space), spec.n_trials(), n_steps * seeds, setup.metric, setup.mode))

    begun = time.monotonic()
    try:
        result = run_search(spec, source, folder, lambda trials: reporters[0].show(trials), print, announce)
        reporters[0].end(result.trials)
    finally:
        for reporter in reporters:
            reporter.stop()
    _print_result(result, spec, folder.path, time.monotonic() - begun)


def _print_result(result: "SearchResult", spec: SearchConfig, out: Path, seconds: float) -> None:
    """Print the best trial and where the results are.

    Raises:
        TrainingError: the search was interrupted, or no trial ran to its end.
    """
    ended = [trial for trial in result.trials if trial.ended]
    failed = sum(trial.status == "failed" for trial in ended)
    why = f", {failed} of them failed (see error in results.csv)" if failed else ""
    print(f"{len(ended)} trials ended in {seconds:.0f} s{why}.")
    if result.best is not None:
        point = ", ".join(f"{name} = {_short(value)}" for name, value in result.best.point.items())
        seeds = f"{spec.search.seeds} seed{'s' if spec.search.seeds > 1 else ''}"
        print(
            f"Best: trial {result.best.name} with {point}: {result.metric} {format_score(result.best.report)} "
            f"over {seeds}. Results are in {out}: results.csv, figure.png, tensorboard/, best/ (its run with seed "
            f"{result.seed}: model and result.h5ad)."
        )
    if len(ended) < spec.n_trials():
        if spec.search.max_hours is None or seconds < 3600 * spec.search.max_hours:
            raise TrainingError(f"The search was interrupted; continue it with --resume --out {out}.")
        if not ended:
            raise TrainingError(
                f"The {spec.search.max_hours:g} hours were over before a trial was completed; continue with --resume "
                f"--out {out} and a larger --max-hours."
            )
        print(
            f"The {spec.search.max_hours:g} hours are over; --resume --out {out} continues for the same time again "
            f"(change it with --max-hours)."
        )
    if result.best is None:
        raise TrainingError(f"No trial was completed; see {out / 'results.csv'}.")


def _describe_devices(setup: "SearchSetup") -> str:
    """How trials share the devices, one clause for each number of units."""
    plans, devices = setup.plans(), setup.devices
    gpu = plans[0].gpu
    count, unit = (devices.gpus, "GPU") if gpu else (devices.cpus, "CPU core")
    clauses = [
        f"{plan.n_units} {plan.unit}{'s' if plan.n_units > 1 else ''} on {len(plan.workers)} "
        f"({count // len(plan.workers)} at a time)"
        for plan in plans
    ]
    there = f"{devices.where[0].upper()}{devices.where[1:]} has {count} {unit}{'s' if count != 1 else ''}"
    return f"{there}; a trial uses {', '.join(clauses)}."


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
