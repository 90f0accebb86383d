"""`python -m cplmix_ray.train`."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from cplmix_ray.cli.lazy_imports import loading
from cplmix_ray.cli.parser import Flag, parse_line, peek
from cplmix_ray.cli.progress import Display, shown_check
from cplmix_ray.cli.table import score_line
from cplmix_ray.config import Config, load_config, load_preset
from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class Train:
    """Find cell types and states without labels: train coupled autoencoders that must agree on each cell's category.

    With nothing given, trains two arms on the handwritten digits inside scikit-learn. For cells:
    python -m cplmix_ray.train --preset cells --data cells.h5ad --n-categories 20 --out my_run
    """

    preset: str | None = None
    """Recipe to start from: cells, dsprites, mnist; the files are in cplmix_ray/presets."""
    config: str | None = None
    """YAML file of settings, in place of a preset; what stands on the line goes before it."""
    out: str | None = None
    """Folder for everything the run writes; default: runs/<data>-<time>."""
    resume: Flag = False
    """Go on with the run in --out from its newest checkpoint; start anew where there is none."""
    settings: tyro.conf.FlagConversionOff[Config] = field(default_factory=lambda: Config())


def parse_train(args: list[str]) -> Train:
    """The command line over the YAML file or preset, over those of the run that is resumed, over the defaults.

    Raises:
        InputError: the line or the file is wrong, or names both a preset and a file.
    """
    early = peek(args, "preset", "config", "out", "resume")
    settings = Config()
    if early["preset"] and early["config"]:
        raise InputError("--preset and --config both name a recipe; give one of them.")
    if early["preset"]:
        settings = load_preset(early["preset"])
    elif early["config"]:
        settings = load_config(early["config"])
    elif early["resume"] is not None and early["out"] and (Path(early["out"]) / "config.yaml").exists():
        settings = load_config(Path(early["out"]) / "config.yaml")
    return parse_line(Train, args, "train", Train(settings=settings))


def train(args: list[str]) -> None:
    """Train, write the run folder, and say where it is."""
    command = parse_train(args)
    config, display = command.settings, Display()
    if command.resume and command.out is None:
        raise InputError("--resume needs --out with the folder of the run to go on with.")
    # Heavy imports only now, so that --help and a wrong line answer at once.
    with loading():
        from cplmix_ray.checkpoints.run_folder import RunFolder
        from cplmix_ray.data.dataset import build_dataset, read_input, settle_disk
        from cplmix_ray.distributed.plan import Plan
        from cplmix_ray.evaluation.annotate import write_result
        from cplmix_ray.training.resume import checkpoint_to_resume, with_kept_augmenter, with_own_reading
        from cplmix_ray.training.run import conduct

    folder = RunFolder(command.out or _fresh_name(config.input.data))
    folder.require_room(command.resume)
    config = with_kept_augmenter(folder, config) if command.resume else config
    config = settle_disk(with_own_reading(folder, config) if command.resume else config)
    source = read_input(config, shown_check())
    data = build_dataset(source, config)
    for note in data.notes:
        display.say(note)
    checkpoint = checkpoint_to_resume(folder, config, data, display.say) if command.resume else None

    def announce(plan: Plan, first: int, last: int) -> None:
        shape = data.training.values_ng.shape
        display.say(
            f"{source.name}: {shape[0]} x {shape[1]}, {len(data.training.train_idx)} train, "
            f"{len(data.training.val_idx)} validate; K = {config.model.n_categories}, seed {config.seed}."
        )
        display.say(plan.reason)
        display.begin(first, last)

    try:
        outcome = conduct(config, data, folder, display, checkpoint, announce)
    finally:
        display.end()
    write_result(folder.result, source.adata, outcome)
    metrics = outcome.metrics
    display.say(f"Trained {metrics['steps']} steps in {metrics['seconds']:.1f} s.")
    display.say(score_line("All cells", metrics))
    held_out = {name.removeprefix("val_"): value for name, value in metrics.items() if name.startswith("val_")}
    if held_out:
        display.say(score_line("Validation", held_out))
    if metrics["populated"] <= config.model.n_categories / 2:
        display.say(
            f"Only {metrics['populated']:g} of {config.model.n_categories} categories hold cells; "
            f"try {_more_populated(config)}."
        )
    display.say(f"Results are in {folder.path}: result.h5ad, metrics.json, checkpoints/, tensorboard/.")


def _fresh_name(data: str) -> Path:
    return Path("runs") / f"{Path(data).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _more_populated(config: Config) -> str:
    """What makes arms use more categories: a softmax has no temperature, and agreement alone is content with one."""
    if config.objective.coupling == "agreement":
        return f"a --marginal above {config.objective.marginal:g}, or more steps"
    tau = f"a --tau below {config.model.temperature:g}, " if config.model.posterior == "tempered" else ""
    return f"{tau}a smaller --lam, or more steps"
