"""A whole search on Ray Tune, or the rest of one."""

import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cplmix_ray.config.search import Dimension, Search
from cplmix_ray.engine.plan import Plan
from cplmix_ray.engine.tune.listener import Hearing, listen, state_of
from cplmix_ray.engine.tune.shelf import Shelf
from cplmix_ray.engine.tune.state import Listener, TrialState
from cplmix_ray.engine.tune.trial import Body, TrialActor, bundles_of
from cplmix_ray.errors import InputError

# Read by Ray Tune when a search begins. Trials keep the working folder, as data may be named relative to it; the runs
# write their scalars themselves; the state of the search is on disk within seconds of every change.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "5")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler


@dataclass(frozen=True)
class SearchJob:
    """All that Ray Tune needs to know.

    Attributes:
        mode: 'max' or 'min' of ``score``.
        n_steps: steps of one run; of a trial, ``n_steps`` times the number of seeds.
        body: the work of a trial.
        plan_at: where the arms of a trial go, by its point.
        folder: for Ray Tune's own state.
        name_trial: gives the next trial its name.
    """

    space: dict[str, Dimension]
    search: Search
    n_draws: int
    mode: str
    n_steps: int
    body: Body
    plan_at: Callable[[dict[str, Any]], Plan]
    folder: Path
    name_trial: Callable[[], str]


def run_search(job: SearchJob, shelf: Shelf, listener: Listener, resume: bool) -> list[TrialState]:
    """Run all trials, or those that a search in the same folder has not finished. Ray must be connected.

    Raises:
        InputError: there is no state of a search to go on from, or the searcher is not installed.
    """
    trainable = tune.with_resources(
        tune.with_parameters(TrialActor, body=job.body, shelf=shelf), lambda point: bundles_of(job.plan_at(point))
    )
    space = {name: _drawn(dimension) for name, dimension in job.space.items()}
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in the table
    listen(listener)
    try:
        if resume:
            if not Tuner.can_restore(str(job.folder)):
                raise InputError(f"{job.folder} holds no search that can go on; start it anew with another --out.")
            tuner = Tuner.restore(
                str(job.folder), trainable, resume_unfinished=True, resume_errored=True, param_space=space
            )
        else:
            tuner = Tuner(trainable, param_space=space, tune_config=_tune_config(job), run_config=_run_config(job))
        with _time_limit(job.search.max_hours):
            grid = tuner.fit()
        return [state_of(trial) for trial in grid._experiment_analysis.trials]
    finally:
        listen(None)


@contextlib.contextmanager
def _time_limit(hours: float | None) -> Iterator[None]:
    """Interrupt the search after some hours so that it can be resumed; Ray Tune's own limit ends its trials."""
    if hours is None:
        yield
        return
    timer = threading.Timer(hours * 3600, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _drawn(dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return tune.choice(dimension.choice)
    if dimension.grid is not None:
        return tune.grid_search(dimension.grid)
    if dimension.uniform is not None:
        return tune.uniform(*dimension.uniform)
    assert dimension.loguniform is not None
    return tune.loguniform(*dimension.loguniform)


def _within(space: dict[str, Dimension], point: dict[str, Any]) -> dict[str, Any]:
    """An altered point put back into its ranges, as Ray Tune multiplies numbers without looking at these."""
    bounds = {name: dimension.uniform or dimension.loguniform for name, dimension in space.items()}
    inside = {name: min(max(point[name], range_[0]), range_[1]) for name, range_ in bounds.items() if range_}
    return {**point, **inside}


def _tune_config(job: SearchJob) -> TuneConfig:
    search = job.search
    return TuneConfig(
        metric="score",
        mode=job.mode,
        num_samples=job.n_draws,
        search_alg=_searcher(job),
        scheduler=_scheduler(job),
        max_concurrent_trials=search.max_concurrent,
        reuse_actors=True,
        trial_name_creator=lambda _: job.name_trial(),
        trial_dirname_creator=str,
    )


def _run_config(job: SearchJob) -> RunConfig:
    exchanges = job.search.scheduler == "pbt"  # else the runs' own checkpoints do
    checkpoints = CheckpointConfig(num_to_keep=4, checkpoint_frequency=int(exchanges), checkpoint_at_end=False)
    return RunConfig(
        name=job.folder.name,
        storage_path=str(job.folder.parent.resolve()),
        failure_config=FailureConfig(max_failures=job.search.trial_failures),
        checkpoint_config=checkpoints,
        callbacks=[Hearing()],
        verbose=0,
    )


def _searcher(job: SearchJob) -> Any:
    if job.search.searcher == "random":
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=job.search.search_seed)
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise InputError(
            "--searcher optuna needs Optuna: pip install 'cplmix_ray[optuna]', or use --searcher random."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(seed=job.search.search_seed)


def _scheduler(job: SearchJob) -> TrialScheduler:
    search, n_steps = job.search, job.n_steps
    if search.scheduler == "asha":
        grace = min(search.grace_steps or max(1, n_steps // 4), n_steps * search.seeds)
        return ASHAScheduler(
            time_attr="step", max_t=n_steps * search.seeds, grace_period=grace, reduction_factor=search.reduction
        )
    if search.scheduler == "pbt":
        return PopulationBasedTraining(
            time_attr="step",
            perturbation_interval=search.exchange_every(n_steps),
            hyperparam_mutations={name: d.values or _drawn(d) for name, d in job.space.items()},
            custom_explore_fn=functools.partial(_within, job.space),
            synch=True,  # else a trial that goes on from one with fewer steps may be sent back over and over
        )
    return FIFOScheduler()
