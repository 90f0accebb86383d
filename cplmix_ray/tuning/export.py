"""The best run of a search as a run folder of its own."""

import json
import shutil
from pathlib import Path

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.source import Source
from cplmix_ray.evaluation.annotate import write_result
from cplmix_ray.evaluation.trained_model import TrainedModel
from cplmix_ray.training.run import Outcome
from cplmix_ray.tuning.records import whole_metrics
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.trial_state import TrialState
from cplmix_ray.utils.durable import PARTIAL, aside, replace_tree, settle, unwritten
from cplmix_ray.utils.errors import DiskError


def export_best(
    folder: SearchFolder, spec: SearchConfig, best: TrialState, source: Source, pick: str, mode: str
) -> int:
    """Copy the best seed's run of the best trial to ``best/``, with the cells annotated by it.

    An earlier ``best/`` stays until this one is whole.

    Args:
        pick: the score that decides.

    Returns:
        The seed of that run.

    Raises:
        InputError, DiskError: it cannot be written.
    """
    trial, first = folder.trial(best.name), spec.run.seed
    seeds = range(first, first + spec.search.seeds)
    figures = {seed: whole_metrics(trial.run(seed), pick) for seed in seeds}
    scores = {seed: each[pick] for seed, each in figures.items() if each is not None}
    seed = (max if mode == "max" else min)(scores, key=lambda each: scores[each])
    run, partial = trial.run(seed), RunFolder(folder.best.with_name(PARTIAL + folder.best.name))
    settle(aside(folder.best))
    shutil.rmtree(partial.path, ignore_errors=True)
    _copy(run.path, partial.path)
    _copy(run.tensorboard, partial.tensorboard)
    model = TrainedModel.load(partial.path)
    metrics = json.loads(partial.metrics.read_text(encoding="utf-8"))
    write_result(partial.result, source.adata, Outcome(metrics, model, model.infer(model.values_of(source))))
    try:
        replace_tree(partial.path, folder.best)
    except OSError as error:
        raise unwritten(folder.best, error) from None
    return seed


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:  # one reason for each file that could not be copied
        raise DiskError(f"Cannot write {target} ({error.args[0][0][2]}); make room there and add --resume.") from None
    except OSError as error:
        raise unwritten(target, error) from None
