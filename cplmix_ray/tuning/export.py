"""What a finished search leaves: its best trial, that trial's best run as a run folder, and a figure of the scores."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.runs.results import write_result
from cplmix_ray.runs.run import RunResult
from cplmix_ray.tuning.records import TrialState, read_metrics
from cplmix_ray.tuning.search_setup import SearchSetup
from cplmix_ray.tuning.space import AXIS_LABELS
from cplmix_ray.utils.durable import PARTIAL, aside, replace_tree, settle, unwritten, write_whole
from cplmix_ray.utils.errors import DiskError
from cplmix_ray.utils.figures import new_figure


def best_trial(states: Sequence[TrialState], mode: str) -> TrialState | None:
    """The trial with the best score among those that ran all their seeds to the end; None where there is none."""
    finished = [state for state in states if state.status == "done" and state.report.get("score") is not None]
    choose = max if mode == "max" else min
    return choose(finished, key=lambda state: state.report["score"], default=None)


def export_best(setup: SearchSetup, best: TrialState, source: Source) -> int:
    """Copy the best seed's run of the best trial to ``best/``, with the cells annotated by it.

    An earlier ``best/`` stays until this one is whole.

    Returns:
        The seed of that run.

    Raises:
        InputError, DiskError: it cannot be written.
    """
    trial, target = setup.folder.trial(best.name), setup.folder.best
    metrics = {seed: read_metrics(trial.run(seed), setup.metric) for seed in setup.seeds}
    scores = {seed: each[setup.metric] for seed, each in metrics.items() if each is not None}
    seed = (max if setup.mode == "max" else min)(scores, key=lambda each: scores[each])
    run, partial = trial.run(seed), RunFolder(target.with_name(PARTIAL + target.name))
    settle(aside(target))
    shutil.rmtree(partial.path, ignore_errors=True)
    _copy(run.path, partial.path)
    _copy(run.tensorboard, partial.tensorboard)
    model = TrainedModel.load(partial.path)
    metrics = json.loads(partial.metrics.read_text(encoding="utf-8"))
    prepared = model.prepare(source)
    outputs = model.compared(prepared, model.infer(prepared), new=False)
    write_result(partial.result, source, RunResult(metrics, model, outputs))
    try:
        replace_tree(partial.path, target)
    except OSError as error:
        raise unwritten(target, error) from None
    return seed


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # one reason for each file that could not be copied
        raise DiskError(f"Cannot write {target} ({error.args[0][0][2]}); make room there and add --resume.") from None
    except OSError as error:
        raise unwritten(target, error) from None


def draw_scores(setup: SearchSetup, trials: Sequence[TrialState]) -> None:
    """Draw figure.png: the score against each searched setting.

    A point stands for a trial that ran to its end, its bar for the standard deviation over seeds. Settings with listed
    values stand side by side, with the mean over the trials of each value.
    """
    space, metric = setup.spec.space, setup.metric
    finished = [t for t in trials if t.status == "done" and t.report.get("score") is not None]
    scores = [trial.report["score"] for trial in finished]
    spread = [trial.report.get("score_sd") or 0.0 for trial in finished]
    figure = new_figure(3.4 * len(space), 3.2)
    panels = figure.subplots(1, len(space), sharey=True, squeeze=False)[0]
    for panel, (name, dimension) in zip(panels, space.items(), strict=True):
        values = [trial.point[name] for trial in finished]
        at = values if dimension.values is None else [dimension.values.index(value) for value in values]
        panel.errorbar(at, scores, yerr=spread, fmt="o", alpha=0.6, markersize=5, capsize=2)
        if dimension.values is not None:
            means = pd.Series(scores).groupby(at).mean()
            panel.plot(means.index, means, "_-", color="black", markersize=18, linewidth=1)
            panel.set_xticks(range(len(dimension.values)), [str(value) for value in dimension.values])
            panel.set_xlim(-0.5, len(dimension.values) - 0.5)
        elif dimension.loguniform is not None:
            panel.set_xscale("log")
        panel.set_xlabel(AXIS_LABELS.get(name, name))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(metric.upper() if metric in ("acc", "ari", "nmi") else metric)
    write_whole(setup.folder.figure, lambda partial: figure.savefig(partial, dpi=150, format="png"))
