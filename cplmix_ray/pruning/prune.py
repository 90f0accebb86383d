"""Pruning: from a run with more categories than expected, the weakest are removed until few are left; the number of
categories is chosen afterwards, from the whole curve."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cplmix_ray.checkpoints.checkpoint import Checkpoint
from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel, newest_checkpoint, settings_of
from cplmix_ray.models.registry import family_of
from cplmix_ray.pruning.stages import Row, Workbench, alternatives, categories_of
from cplmix_ray.runs.results import write_result
from cplmix_ray.runs.run import RunResult
from cplmix_ray.utils.durable import discard, unwritten, write_whole
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

Retrain = Callable[[Sequence[tuple[RunFolder, list[int], RunFolder]]], list[Row]]
"""Calls :meth:`Workbench.retrain` with each of the arguments, those of the alternatives of a stage."""


@dataclass(frozen=True)
class Pruning:
    """A pruning in its folder.

    Attributes:
        out: its folder.
        min_categories: number of categories at which it ends.
        at_once: number of categories that a stage removes; None: a tenth of them. Those on which no cell is agreed are
            always removed together.
        n_alternatives: number of groups of categories that are tried in each stage.
    """

    out: Path
    min_categories: int = 1
    at_once: int | None = None
    n_alternatives: int = 1

    def stage(self, n_categories: int) -> RunFolder:
        """The run folder of a stage."""
        return RunFolder(self.out / "stages" / f"k-{n_categories:03d}")

    def curve(self) -> pd.DataFrame:
        """Figures of the stages that ended, the first first."""
        path = self.out / CURVE
        if not path.exists():
            return pd.DataFrame(columns=list(_COLUMNS))
        return pd.read_csv(path, dtype={"removed": str}, float_precision="round_trip", keep_default_na=True)

    def require_room(self, run: Checkpoint, resume: bool) -> None:
        """Check that the folder holds nothing else, or a pruning of the same run.

        Raises:
            InputError: otherwise.
        """
        curve = self.curve()
        if curve.empty or RunFolder(self.out).path.resolve() == Path(run.path).parent.parent.resolve():
            RunFolder(self.out).require_room(resume=False)
        elif not resume:
            raise InputError(
                f"{self.out} already contains a pruning; add --resume to continue it, or choose another --out."
            )
        elif newest_checkpoint(self.stage(int(curve["categories"].iloc[0])).path).manifest != run.manifest:
            raise InputError(f"The pruning in {self.out} is that of another run; choose another --out.")

    def begin(self, run: Path, workbench: Workbench, ended: Callable[[Row], None]) -> None:
        """Copy the run as the first stage and measure it, unless that was done."""
        if not self.curve().empty:
            return
        model = TrainedModel.load(run)
        n_categories = family_of(model.config).facts(model.config)["n_categories"]
        folder = self.stage(n_categories)
        discard(folder.path)
        copy_run(run, folder.path)
        outputs = model.infer(workbench.data.training)
        if not folder.metrics.exists():  # of a run that did not end
            family, say = family_of(model.config), lambda line: None
            found = family.evaluate(lambda: outputs, model.model, workbench.data, model.config, say)
            folder.write_metrics({**found.scores, "steps": model.step})
        self._keep({**workbench.measured(model, outputs, folder, np.arange(n_categories)), "removed": ""}, ended)

    def run(self, retrain: Retrain, ended: Callable[[Row], None]) -> None:
        """Do the stages that are left.

        Args:
            ended: called with the row of each stage that ended.
        """
        while (left := int(self.curve()["categories"].iloc[-1])) > self.min_categories:
            last, table = self.stage(left), categories_of(self.stage(left))
            n_removed = max(self.at_once or max(1, left // 10), int((table["consensus"] == 0).sum()))
            groups = alternatives(table, min(n_removed, left - self.min_categories), self.n_alternatives)
            stage = self.stage(left - len(groups[0]))
            discard(stage.path)  # of a stage that was interrupted
            folders = [RunFolder(stage.path / f"alternative-{i}") for i in range(len(groups))]
            rows = retrain([(last, group, folder) for group, folder in zip(groups, folders, strict=True)])
            best = min(range(len(rows)), key=lambda i: rows[i]["val_reconstruction"])
            self._take(folders[best], stage)
            names = " ".join(str(name) for name in table["of_run"].iloc[groups[best]])
            self._keep({**rows[best], "removed": names}, ended)

    def _take(self, alternative: RunFolder, stage: RunFolder) -> None:
        """Make an alternative the model of the stage, and remove the others."""
        for each in sorted(alternative.path.iterdir()):
            each.rename(stage.path / each.name)
        for other in stage.path.glob("alternative-*"):
            discard(other)

    def _keep(self, row: Row, ended: Callable[[Row], None]) -> None:
        """Add a row to the curve, by which a stage has ended."""
        curve = pd.DataFrame([*self.curve().to_dict("records"), row], columns=list(_COLUMNS))
        write_whole(self.out / CURVE, lambda path: curve.to_csv(path, index=False, lineterminator="\n"))
        ended(row)

    def export(self, n_categories: int, source: Source) -> RunResult:
        """Make the folder of the pruning the run folder of a stage, with the cells annotated by its model."""
        folder = RunFolder(self.out)
        copy_run(self.stage(n_categories).path, self.out)
        model = TrainedModel.load(self.out)
        metrics = json.loads(folder.metrics.read_text(encoding="utf-8"))
        result = RunResult(metrics, model, model.infer(model.prepare(source)))
        write_result(folder.result, source, result)
        return result


def copy_run(run: Path, target: Path) -> None:
    """Copy what belongs to the model of a run, over that of another.

    Raises:
        InputError, DiskError: it cannot be written.
    """
    left_out = ("tensorboard", "result.h5ad", "stages", CURVE)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for each in sorted(run.iterdir()):
            if each.name in left_out or each.name.startswith("."):
                continue
            discard(target / each.name)
            if each.is_dir():
                shutil.copytree(each, target / each.name)
            else:
                shutil.copy2(each, target / each.name)
    except OSError as error:
        raise unwritten(target, error) from None


def run_to_prune(run: str) -> Checkpoint:
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
            f"{run} has one {family.unit}, and categories are pruned by the consensus of several; train with "
            f"--n-arms 2."
        )
    return checkpoint
