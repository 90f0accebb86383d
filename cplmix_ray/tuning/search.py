"""A search from start to end: check, run the trials, keep the ledger, export the best."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cplmix_ray.config.files import save_search
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.dataset import build_dataset
from cplmix_ray.data.source import Source
from cplmix_ray.data.split import split_source
from cplmix_ray.distributed.plan import Devices, Plan, local_devices
from cplmix_ray.distributed.ray_init import cluster_devices, joins_cluster, ray_session
from cplmix_ray.tuning.exchanges import keep_exchange
from cplmix_ray.tuning.export import export_best
from cplmix_ray.tuning.figure import draw_scores
from cplmix_ray.tuning.results_table import Ledger, best_of
from cplmix_ray.tuning.resume import Rest, rest_of
from cplmix_ray.tuning.runner import run_search
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.space import check_space, every_value
from cplmix_ray.tuning.spec import SearchJob
from cplmix_ray.tuning.trial_runner import TrialWork
from cplmix_ray.tuning.trial_state import TrialState
from cplmix_ray.utils.errors import InputError

MODES = {"acc": "max", "ari": "max", "nmi": "max", "agreement": "max", "consensus": "max", "reconstruction": "min"}


@dataclass(frozen=True)
class Findings:
    """What a search ended with: ``best`` is None where no trial ran to its end, ``seed`` is that of the best's run."""

    trials: list[TrialState]
    best: TrialState | None
    seed: int | None
    metric: str


def conduct_search(
    spec: SearchConfig,
    source: Source,
    folder: SearchFolder,
    announce: Callable[[str, Sequence[Plan], Devices, int], None],
    show: Callable[[Sequence[TrialState]], None],
    say: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Run a search, or the rest of one, and leave everything in ``folder``.

    Nothing in the folder can run code: all that is read from it is plain text, and weights in safetensors.

    Args:
        announce: told the metric, the plans that trials can have, the devices, and the steps of one run.
        show: told the trials after every change.
        say: told of damaged records of a search that is resumed, and of what the disk refuses, a line each.

    Raises:
        InputError: the space, the data or the devices do not allow the search, or the folder is that of an older
            version.
    """
    metric = check_search(spec, source)
    train_idx, _ = split_source(source, spec.run.input.val_fraction, spec.run.seed)
    n_steps = spec.run.training.steps(len(train_idx))
    address = spec.run.placement.ray_address
    with contextlib.ExitStack() as stack:
        devices = local_devices()
        if joins_cluster(address):
            stack.enter_context(ray_session(address))
            devices = cluster_devices(spec.run.placement)
        work = TrialWork(spec, metric, devices, n_steps, folder.path.resolve())
        plans = [work.plan_at({"model.n_arms": n_arms}) for n_arms in every_value(spec, "model.n_arms")]
        folder.path.mkdir(parents=True, exist_ok=True)
        stack.enter_context(folder.held())
        rest = rest_of(spec, folder, metric, say)
        save_search(spec, folder.spec)
        announce(metric, plans, devices, n_steps)
        ledger = Ledger(folder, list(spec.space), show, [history.state for history in rest.history], say)
        if rest.history:
            ledger([])
        if rest.trials or rest.n_more:
            stack.enter_context(ray_session(address))
            _run(work, rest, source, folder, ledger, say)
    trials = ledger.trials
    best = best_of(trials, MODES[metric])
    if best is None:
        return Findings(trials, None, None, metric)
    draw_scores(folder.figure, spec.space, trials, metric)
    seed = export_best(folder, spec, best, source, metric, MODES[metric])
    return Findings(trials, best, seed, metric)


def _run(
    work: TrialWork,
    rest: Rest,
    source: Source,
    folder: SearchFolder,
    ledger: Ledger,
    say: Callable[[str], None],
) -> None:
    """Run what is left; Ray must be connected."""
    job = SearchJob(
        space=work.spec.space,
        search=work.spec.search,
        mode=MODES[work.metric],
        n_steps=work.n_steps,
        body=work,
        plan_at=work.plan_at,
        trials=rest.trials,
        n_more=rest.n_more,
        name_trial=folder.next_trial,
        patience=work.spec.run.placement.collective_timeout,
        history=rest.history,
        exchanged_at=rest.exchanged_at,
        keep_exchange=functools.partial(keep_exchange, folder),
        say=say,
    )
    # Data sets are built in an actor, whose present folder may be another one.
    ledger.close(run_search(job, source, functools.partial(build_dataset, root=Path.cwd()), ledger))


def check_search(spec: SearchConfig, source: Source) -> str:
    """Compare the space with the settings' bounds and the data, before anything starts.

    Returns:
        The metric, with 'auto' resolved.

    Raises:
        InputError: something does not fit.
    """
    check_space(spec)
    labelled = source.labels_n is not None and bool((source.labels_n != "").any())
    metric = spec.search.metric
    if metric == "auto":
        metric = "acc" if labelled else "agreement"
    if metric in ("acc", "ari", "nmi") and not labelled:
        raise InputError(
            f"--metric {metric} needs known types, and {source.name} comes without; name them with --labels-key or "
            f"use --metric agreement."
        )
    if metric in ("agreement", "consensus") and 1 in every_value(spec, "model.n_arms"):
        raise InputError(
            f"--metric {metric} compares arms, and a run with one arm has nothing to compare; take 1 out of "
            f"model.n_arms or use another --metric."
        )
    if spec.search.scheduler != "none" and spec.run.input.val_fraction == 0 and source.held_out_n is None:
        raise InputError(
            f"--scheduler {spec.search.scheduler} compares trials on validation cells, of which --val-fraction 0 "
            f"leaves none."
        )
    most = max(every_value(spec, "model.n_categories"))
    if most > source.n_cells:
        raise InputError(f"{source.name} has {source.n_cells} cells, fewer than the {most} categories in the space.")
    if spec.run.placement.engine == "ray_train":
        raise InputError("--engine ray_train is for single runs; a search uses auto, ray or local.")
    return metric
