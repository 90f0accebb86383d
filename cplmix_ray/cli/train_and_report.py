"""Steps shared by the commands that train a model: read and prepare the data, train, write and print the results."""

from collections.abc import Sequence
from pathlib import Path

from cplmix_ray.cli.parser import loading
from cplmix_ray.cli.score_line import score_line
from cplmix_ray.config import RunConfig
from cplmix_ray.utils.output_lock import lock_folder
from cplmix_ray.utils.progress import Display, shown_check

_RESULTS = (
    "result.h5ad",
    "augmenter.safetensors",
    "manifest.json",
    "metrics.json",
    "reliability.csv",
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
        _train_in_locked_folder(config, out, resume, display)


def _train_in_locked_folder(config: RunConfig, out: str | Path, resume: bool, display: Display) -> None:
    # Slow imports are delayed, so that --help and invalid options are answered at once.
    with loading():
        from cplmix_ray.checkpoints.run_folder import RunFolder
        from cplmix_ray.data.io.read import read_input, settle_disk
        from cplmix_ray.distributed.plan import Plan
        from cplmix_ray.models.registry import build_dataset, family_of
        from cplmix_ray.runs.results import write_result
        from cplmix_ray.runs.resume import checkpoint_to_resume, with_kept_inputs
        from cplmix_ray.runs.run import run_training

    folder, family = RunFolder(out), family_of(config)
    folder.require_room(resume)
    config = settle_disk(with_kept_inputs(folder, config) if resume else config)
    source = read_input(config, shown_check())
    data = build_dataset(source, config)
    for note in data.notes:
        display.say(note)
    checkpoint = checkpoint_to_resume(folder, config, data, display.say) if resume else None

    def announce(plan: Plan, first: int, last: int) -> None:
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
        write_result(folder.result, source.adata, run)
    metrics = run.metrics
    display.say(f"Trained {metrics['steps']} steps in {metrics['seconds']:.1f} s.")
    held_out = {name.removeprefix("val_"): value for name, value in metrics.items() if name.startswith("val_")}
    for name, scores in (("All cells", metrics), ("Validation", held_out)):
        line = score_line(name, scores)
        if line:
            display.say(line)
    found = family.cell_remarks(run.outputs, source.adata.obs, run.model.config)
    for line in (*family.remarks(metrics, run.model.config), *found):
        display.say(line)
    written = [folder.path / name for name in _RESULTS if (folder.path / name).exists()]
    names = [f"{path.name}/" if path.is_dir() else path.name for path in written]
    display.say(f"Results are in {folder.path}: {', '.join(names)}.")
