"""A whole search on Ray Tune, or the rest of one."""

import contextlib
import logging
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from cplmix_ray.config import Config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.source import Source
from cplmix_ray.tuning.callback import Hearing, heard_by, state_of
from cplmix_ray.tuning.dataset_cache import shelf_of
from cplmix_ray.tuning.heartbeat import Pulses
from cplmix_ray.tuning.schedulers import scheduler_of
from cplmix_ray.tuning.searchers import searcher_of
from cplmix_ray.tuning.spec import SearchJob
from cplmix_ray.tuning.trial_actor import TrialActor, bundles_of
from cplmix_ray.tuning.trial_state import Listener, TrialState

# Read by Ray Tune when a search begins. Trials keep the working folder, as data may be named relative to it; the runs
# write their scalars themselves; Ray Tune's own state of the search, which nothing reads, is written seldom.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial that fails has no score to tell
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner


def run_search(
    job: SearchJob, source: Source, build: Callable[[Source, Config], Dataset], listener: Listener
) -> list[TrialState]:
    """Run the trials of a job, and no others. Ray must be connected.

    Ray Tune's state is pickles, which run code when they are read. It is kept in a folder of this process alone, on
    the driver's machine, where all trials have their seats, and no search goes on from it. What the job knows of a
    search's earlier trials is told to a new searcher and a new scheduler: those that have ended count as they did,
    those that go on do so from their runs' own checkpoints, and points, rungs and exchanges are those of a search
    without interruption.

    Args:
        source: the cells as read.
        build: makes a data set of them for the settings of a run.

    Raises:
        InputError: the searcher is not installed.
    """
    searcher, space = searcher_of(job)
    with contextlib.ExitStack() as stack:
        scratch = tempfile.TemporaryDirectory(prefix="cplmix-search-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(scratch))
        pulses = Pulses(folder / "pulses", job.patience)
        stack.enter_context(pulses.watched())
        shelf = stack.enter_context(shelf_of(source, build, pulses))
        stack.enter_context(heard_by(listener))
        actor = TrialActor.bound(job.body, shelf, pulses)
        tuner = Tuner(
            tune.with_resources(actor, lambda config: bundles_of(job.plan_at(config["trial"]["point"]))),
            param_space=space,
            tune_config=TuneConfig(
                num_samples=job.n_more + len(job.trials) if not space else 1,
                search_alg=searcher,
                scheduler=scheduler_of(job),
                max_concurrent_trials=None if space else job.search.max_concurrent,
                # A trial that is given a process which has just died counts as failed, however often it may start.
                reuse_actors=False,
                trial_name_creator=lambda trial: trial.config["trial"]["name"],
                trial_dirname_creator=str,
            ),
            run_config=_run_config(job, folder),
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in the table
        with _time_limit(job.search.max_hours), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Consider boosting PBT")  # by handing processes on, see above
            grid = tuner.fit()
        return [state_of(trial) for trial in grid._experiment_analysis.trials]


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


def _run_config(job: SearchJob, folder: Path) -> RunConfig:
    return RunConfig(
        name="search",
        storage_path=str(folder),
        failure_config=FailureConfig(max_failures=job.search.trial_failures),
        checkpoint_config=CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),  # the runs' own do
        callbacks=[Hearing()],
        verbose=0,
    )
