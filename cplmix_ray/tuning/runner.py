"""Runs the trials of a search on Ray Tune."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, TuneConfig, Tuner
from ray.tune import RunConfig as RayRunConfig
from ray.tune.experiment import Trial as TuneTrial

from cplmix_ray.config import RunConfig
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.source import Source
from cplmix_ray.tuning.dataset_cache import dataset_cache
from cplmix_ray.tuning.records import Report, TrialState
from cplmix_ray.tuning.schedulers import make_scheduler
from cplmix_ray.tuning.search_setup import SearchSetup, SearchState
from cplmix_ray.tuning.searchers import make_searcher
from cplmix_ray.tuning.stopped_processes import StoppedProcessKiller
from cplmix_ray.tuning.trial import TrialActor, trial_resources

# Read by Ray Tune when a search begins. Trials keep the working folder, as data may be named relative to it; the runs
# write their scalars themselves; Ray Tune's own state of the search, which nothing reads, is written seldom.
for _name, _value in {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails has no score to report
    "RAY_AIR_NEW_OUTPUT": "0",
}.items():
    os.environ.setdefault(_name, _value)

Listener = Callable[[list[TrialState]], None]
"""Called with all trials whenever one has changed."""

_STATUS = {"PENDING": "waiting", "RUNNING": "running", "PAUSED": "paused", "TERMINATED": "done", "ERROR": "failed"}


def run_trials(
    setup: SearchSetup,
    state: SearchState,
    source: Source,
    build: Callable[[Source, RunConfig], Dataset],
    listener: Listener,
    say: Callable[[str], None],
) -> list[TrialState]:
    """Run the trials that are left of a search. Ray must be connected.

    Ray Tune's state is pickles, which run code when they are read. It is kept in a folder of this process alone, on
    the driver's machine, where all trials run, and no search continues from it. What is known of earlier trials is
    told to a new searcher and a new scheduler: those that have ended count as they did, those that continue do so from
    their runs' own checkpoints, and points, rungs and exchanges are those of a search without interruption.

    Args:
        source: the cells as read.
        build: makes a data set of them for the settings of a run.
        say: called with a line when an exchange cannot be written.

    Raises:
        InputError: the searcher is not installed.
    """
    searcher, space = make_searcher(setup, state)
    search = setup.spec.search
    with contextlib.ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="cplmix-search-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(scratch))
        killer = StoppedProcessKiller(folder / "processes", setup.spec.run.placement.collective_timeout)
        stack.enter_context(killer.running())
        datasets = stack.enter_context(dataset_cache(source, build, killer.register))
        actor = TrialActor.bound(setup.absolute(), datasets, killer)
        tuner = Tuner(
            tune.with_resources(actor, lambda config: trial_resources(setup.plan_at(config["trial"]["point"]))),
            param_space=space,
            tune_config=TuneConfig(
                num_samples=1 if space else state.n_more + len(state.trials),
                search_alg=searcher,
                scheduler=make_scheduler(setup, state, say),
                max_concurrent_trials=None if space else search.max_concurrent,
                # A trial that is given a process which has just died counts as failed, however often it may start.
                reuse_actors=False,
                trial_name_creator=lambda trial: trial.config["trial"]["name"],
                trial_dirname_creator=str,
            ),
            run_config=RayRunConfig(
                name="search",
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=search.trial_failures),
                checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),  # the runs' own do
                callbacks=[_TrialCallback(listener)],
                verbose=0,
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in the table
        with time_limit(search.max_hours, signal.SIGUSR1), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consider boosting PBT")  # by reuse_actors, see above
            grid = tuner.fit()
        return [state_of(trial) for trial in grid._experiment_analysis.trials]


@contextlib.contextmanager
def time_limit(hours: float | None, number: int) -> Iterator[None]:
    """Interrupt the search after some hours so that it can be resumed; Ray Tune's own limit ends its trials.

    Args:
        number: of the signal that interrupts it.
    """
    if hours is None:
        yield
        return
    timer = threading.Timer(hours * 3600, lambda: os.kill(os.getpid(), number))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class _TrialCallback(tune.Callback):
    """Passes every change of a trial on to the listener as soon as Ray Tune tells it."""

    def __init__(self, listener: Listener):
        self.listener = listener

    def __reduce__(self) -> Any:
        return tune.Callback, ()  # Ray Tune writes callbacks into its state, and a listener cannot be pickled

    def on_trial_start(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._tell(trials, state_of(trial))

    def on_trial_result(self, iteration: int, trials: list, trial: TuneTrial, result: dict, **info: Any) -> None:
        self._tell(trials, state_of(trial, result))

    def on_trial_complete(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._tell(trials, state_of(trial, complete=True))

    def on_trial_error(self, iteration: int, trials: list, trial: TuneTrial, **info: Any) -> None:
        self._tell(trials, state_of(trial))

    def _tell(self, trials: list[TuneTrial], changed: TrialState) -> None:
        self.listener([changed if str(trial) == changed.name else state_of(trial) for trial in trials])


def state_of(trial: TuneTrial, report: Report | None = None, complete: bool = False) -> TrialState:
    """The state of a trial of Ray Tune.

    Args:
        report: its newest report, where Ray Tune has not stored it yet.
        complete: Ray Tune is about to mark the trial as terminated.
    """
    point = dict(trial.config["trial"]["point"])
    report = dict(trial.last_result or {} if report is None else report)
    if "failed" in report:  # by itself; Ray Tune would start it again
        return TrialState(str(trial), "failed", point, error=report["failed"])
    if "step" not in report:  # before the first one, Ray Tune has notes of its own there
        report = {}
    status = "done" if complete else _STATUS.get(trial.status, trial.status.lower())
    if status == "done" and not report.get("complete"):
        # Ray Tune marks the report at which a scheduler ends a trial, and not those of trials running when all ends.
        status = "stopped" if report.get("done") else "unfinished"
    error = ""
    if status == "failed":
        error = [line.strip() for line in str(trial.get_error() or "its process died").splitlines() if line.strip()][-1]
    return TrialState(str(trial), status, point, report, error)
