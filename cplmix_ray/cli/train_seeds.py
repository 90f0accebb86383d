"""Several runs of `train` that differ in the seed, and their consensus."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cplmix_ray.cli.parser import loading
from cplmix_ray.cli.score_line import score_line
from cplmix_ray.cli.train_and_report import say_remarks, say_results, train_cells
from cplmix_ray.config import RunConfig
from cplmix_ray.utils.output_lock import lock_folder
from cplmix_ray.utils.progress import Display, shown_check

if TYPE_CHECKING:
    import numpy as np

    from cplmix_ray.checkpoints.run_folder import RunFolder
    from cplmix_ray.data.source import Source

_RESULTS = ("result.h5ad", "stability.csv", "metrics.json", "reliability.csv", "batches.csv")


class _DisplayOnce(Display):
    """A display that prints each line once: most of what is to be said of the data is the same for every seed."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def say(self, line: str) -> None:
        if line not in self.said:
            self.said.add(line)
            super().say(line)


def train_seeds(config: RunConfig, out: str | Path, resume: bool, n_seeds: int, notes: Sequence[str] = ()) -> None:
    """Train with the seeds from that of the settings on, each in a folder of its own, and write their consensus.

    Runs that have ended are not repeated. The cells are read once.

    Raises:
        InputError, TrainingError: see :func:`cplmix_ray.cli.train_and_report.train_model`.
    """
    display = _DisplayOnce()
    for note in notes:
        display.say(note)
    with lock_folder(Path(out), display.say):
        with loading():
            from cplmix_ray.checkpoints.seeds_folder import SeedsFolder
            from cplmix_ray.data.io.read import read_input, settle_disk
            from cplmix_ray.runs.resume import with_kept_inputs
            from cplmix_ray.runs.seeds import ended_probabilities, require_seeds, stability_remarks, write_consensus

        folder = SeedsFolder(out)
        config = settle_disk(with_kept_inputs(folder, config) if resume else config)
        require_seeds(folder, config, n_seeds, resume)
        source = read_input(config, shown_check())
        seeds = range(config.seed, config.seed + n_seeds)
        configs = [config.model_copy(update={"seed": seed}) for seed in seeds]
        probs_s = [ended_probabilities(folder.run(each.seed), each, source) for each in configs]
        for number, own in enumerate(configs):
            if probs_s[number] is None:
                display.say(f"Seed {own.seed} ({number + 1} of {n_seeds}):")
                probs_s[number] = _train_seed(
                    own, source, folder.run(own.seed), display, lambda: folder.keep(config, n_seeds)
                )
        run, table = write_consensus(folder, source, config, [each for each in probs_s if each is not None])
        display.say(score_line(f"Consensus of {n_seeds} seeds", run.metrics))
        say_remarks(run, source, display)
        for line in stability_remarks(table, n_seeds):
            display.say(line)
        say_results(folder.path, (*_RESULTS, *(folder.run(seed).path.name for seed in seeds)), display)


def _train_seed(
    config: RunConfig, source: "Source", folder: "RunFolder", display: Display, started: Callable[[], None]
) -> "np.ndarray":
    from cplmix_ray.runs.resume import with_kept_inputs

    with lock_folder(folder.path, display.say):
        begun = folder.holds_run()
        own = with_kept_inputs(folder, config) if begun else config
        return train_cells(own, source, folder, begun, display, started).outputs["probs_nk"]
