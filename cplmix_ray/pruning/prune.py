"""Pruning of a run with more categories than expected: the weakest are removed until few are left, and the number is
chosen afterwards from the whole curve."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cplmix_ray.checkpoints.checkpoint import Checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel, newest_checkpoint, settings_of
from cplmix_ray.models.registry import family_of
from cplmix_ray.pruning.choice import numbers_of_categories
from cplmix_ray.pruning.measures import HeldOut
from cplmix_ray.pruning.stages import Retraining, Row, categories_of, measured, retrain, weakest_first
from cplmix_ray.runs.callbacks import Progress
from cplmix_ray.runs.results import write_result
from cplmix_ray.runs.run import RunResult
from cplmix_ray.utils.durable import clear, discard, unwritten, write_whole
from cplmix_ray.utils.errors import InputError

CURVE = "pruning.csv"
_COLUMNS = (
    "categories",
    "removed",
    "min_consensus",
    "mean_consensus",
    "consensus",
    "agreement",
    "agreement_of_halves",
    "val_reconstruction",
    "smallest_category",
    "acc",
    "ari",
)


@dataclass(frozen=True)
class Pruning:
    """A pruning in its folder.

    Attributes:
        out: its folder; that of a stage is stages/k-029 in it.
        min_categories: number of categories at which it ends.
        at_once: number of categories that a stage removes; None: a tenth of them.
        retraining: how the model of a stage is trained.
    """

    out: Path
    min_categories: int
    at_once: int | None
    retraining: Retraining

    def stage(self, n_categories: int) -> RunFolder:
        """The run folder of a stage."""
        return RunFolder(self.out / "stages" / f"k-{n_categories:03d}")

    def curve(self) -> pd.DataFrame:
        """Figures of the stages that ended, the first first."""
        path = self.out / CURVE
        if not path.exists():
            return pd.DataFrame(columns=list(_COLUMNS))
        return pd.read_csv(path, dtype={"removed": str}, float_precision="round_trip")

    def run(
        self,
        run: Path,
        data: Dataset,
        held_out: HeldOut,
        progress: Progress,
        ended: Callable[[Row], None],
    ) -> None:
        """Do the stages that are left.

        Args:
            run: folder of the run; not used if the first stage ended before.
            ended: called with the row of each stage that ended.
        """
        if self.curve().empty:
            self._keep(self._first(run, data, held_out, progress), ended)
        first = int(self.curve()["categories"].iloc[-1])
        sizes = numbers_of_categories(first, self.min_categories, self.at_once)
        for before, after in zip(sizes, sizes[1:], strict=False):
            table = categories_of(self.stage(before))
            removed = sorted(int(k) for k in weakest_first(table)[: before - after])
            folder = self.stage(after)
            discard(folder.path)  # of a stage that was interrupted
            row = retrain(self.stage(before), removed, folder, data, held_out, self.retraining, progress)
            names = " ".join(str(name) for name in table["of_run"].iloc[removed])
            self._keep({**row, "removed": names}, ended)

    def _first(self, run: Path, data: Dataset, held_out: HeldOut, progress: Progress) -> Row:
        """Copy the run as the first stage, and measure it."""
        model = TrainedModel.load(run)
        n_categories = family_of(model.config).facts(model.config)["n_categories"]
        folder = self.stage(n_categories)
        discard(folder.path)
        copy_run(run, folder.path)
        outputs = model.infer(data.training)
        if not folder.metrics.exists():  # of a run that did not end
            found = family_of(model.config).evaluate(lambda: outputs, model.model, data, model.config, progress.say)
            folder.write_metrics({**found.scores, "steps": model.step})
        return measured(model, outputs, folder, np.arange(n_categories), data, held_out)

    def _keep(self, row: Row, ended: Callable[[Row], None]) -> None:
        """Add a row to the curve: the stage has ended."""
        curve = pd.DataFrame([*self.curve().to_dict("records"), row], columns=list(_COLUMNS))
        write_whole(self.out / CURVE, lambda path: curve.to_csv(path, index=False, lineterminator="\n"))
        ended(row)

    def export(self, n_categories: int, source: Source) -> RunResult:
        """Make the folder of the pruning the run folder of a stage, with the cells annotated by its model."""
        stage, folder = self.stage(n_categories), RunFolder(self.out)
        copy_run(stage.path, self.out)
        model = TrainedModel.load(self.out)
        metrics = json.loads(folder.metrics.read_text(encoding="utf-8"))
        result = RunResult(metrics, model, model.infer(model.prepare(source)))
        write_result(folder.result, source.adata, result)
        return result


def copy_run(run: Path, target: Path) -> None:
    """Copy what belongs to the model of a run, and replace what is there of another.

    Raises:
        InputError, DiskError: it cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        clear(target)
        for each in sorted(run.iterdir()):
            if each.name in ("tensorboard", "result.h5ad", "stages") or each.name.startswith("."):
                continue
            discard(target / each.name)
            if each.is_dir():
                shutil.copytree(each, target / each.name)
            else:
                shutil.copy2(each, target / each.name)
    except OSError as error:
        raise unwritten(target, error) from None


def checkpoint_of_run(run: str) -> Checkpoint:
    """The checkpoint of a run whose categories can be pruned.

    Raises:
        InputError: they cannot.
    """
    checkpoint = newest_checkpoint(run)
    config = settings_of(checkpoint)
    family = family_of(config)
    family.without_categories(config, checkpoint.parts, ())
    if len(family.units(config)) < 2:
        raise InputError(
            f"{run} has one {family.unit}, and categories are pruned by the consensus of several; train with --n-arms 2."
        )
    return checkpoint
