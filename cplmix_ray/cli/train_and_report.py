"""Steps shared by the commands that train a model: read and prepare the data, train, write and print the results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cplmix_ray.cli.parser import loading
from cplmix_ray.cli.score_line import score_line
from cplmix_ray.config import RunConfig
from cplmix_ray.utils.output_lock import lock_folder
from cplmix_ray.utils.progress import Display, shown_check

if TYPE_CHECKING:
    from cplmix_ray.checkpoints.run_folder import RunFolder
    from cplmix_ray.data.source import Source
    from cplmix_ray.runs.run import RunResult

_RESULTS = (
    "result.h5ad",
    "augmenter.safetensors",
    "manifest.json",
    "metrics.json",
    "reliability.csv",
    "reliability.png",
    "batches.csv",
    "checkpoints",
    "tensorboard",
)
"""Files and folders of a run folder that the last line of a command lists."""


def train_model(config: RunConfig, out: str | Path, resume: bool, notes: Sequence[str] = ()) -> None:
    """Train, write the run folder, and print scores and the folder.

    Args:
        notes: lines to print first.

    Raises:
        InputError: another process uses the folder.
        InputError, TrainingError: see :func:`cplmix_ray.runs.run.run_training`.
    """
    display = Display()
    for note in notes:
        display.say(note)
    with lock_folder(Path(out), display.say):
        # Slow imports are delayed, so that --help and invalid options are answered at once.
        with loading():
            from cplmix_ray.checkpoints.run_folder import RunFolder
            from cplmix_ray.data.io.read import read_input, settle_disk
            from cplmix_ray.runs.resume import with_kept_inputs
        folder = RunFolder(out)
        folder.require_room(resume)
        config = settle_disk(with_kept_inputs(folder, config) if resume else config)
        source = read_input(config, shown_check())
        run = train_cells(config, source, folder, resume, display)
        say_remarks(run, source, display)
        say_results(folder.path, _RESULTS, display)


def train_cells(
    config: RunConfig,
    source: "Source",
    folder: "RunFolder",
    resume: bool,
    display: Display,
    started: Callable[[], None] = lambda: None,
) -> "RunResult":
    """Train on cells that were read, write the run folder, and print scores.

    Args:
        started: called before the first step, when the settings are known to fit the data.
    """
    with loading():
        from cplmix_ray.distributed.plan import Plan
        from cplmix_ray.models.registry import build_dataset, family_of
        from cplmix_ray.runs.results import write_result
        from cplmix_ray.runs.resume import checkpoint_to_resume
        from cplmix_ray.runs.run import run_training

    family = family_of(config)
    data = build_dataset(source, config)
    for note in data.notes:
        display.say(note)
    checkpoint = checkpoint_to_resume(folder, config, data, display.say) if resume else None

    def announce(plan: Plan, first: int, last: int) -> None:
        started()
        training, words = data.training, family.summary(config)
        rows, columns = ("cells", "genes") if source.image_shape is None else ("images", "pixels")
        n_rows, n_columns, n_read = *training.matrix.shape, source.matrix.shape[1]
        chosen = f" (of {n_read})" if n_columns < n_read else ""
        display.say(
            f"{source.name}: {n_rows} {rows} x {n_columns} {columns}{chosen}, {len(training.train_idx)} train, "
            f"{len(training.val_idx)} validate; {f'{words}, ' if words else ''}seed {config.seed}."
        )
        display.say(plan.reason)
        display.begin(first, last)

    try:
        run = run_training(config, data, folder, display, checkpoint, announce)
    finally:
        display.end()
    if run.outputs:
        write_result(folder.result, source, run)
    metrics = run.metrics
    display.say(f"Trained {metrics['steps']} steps in {metrics['seconds']:.1f} s.")
    held_out = {name.removeprefix("val_"): value for name, value in metrics.items() if name.startswith("val_")}
    for name, scores in (("All cells", metrics), ("Validation", held_out)):
        line = score_line(name, scores)
        if line:
            display.say(line)
    return run


def say_remarks(run: "RunResult", source: "Source", display: Display) -> None:
    """Print what the user should know of the result."""
    family, settled = run.model.family, run.model.config
    found = family.cell_remarks(run.outputs, source.adata.obs, settled)
    counts = family.cell_counts(run.outputs)
    for line in (*counts, *family.remarks(run.metrics, run.outputs, settled), *found):
        display.say(line)


def say_results(folder: Path, names: Sequence[str], display: Display) -> None:
    """Print the folder and those of the files and folders that are in it."""
    found = [f"{name}/" if (folder / name).is_dir() else name for name in names if (folder / name).exists()]
    display.say(f"Results are in {folder}: {', '.join(found)}.")
