"""A search from start to end: check, run the trials, keep the table, export the best."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cplmix_ray.config.files import save_search
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.source import Source
from cplmix_ray.data.splits import split_source
from cplmix_ray.distributed.plan import local_devices
from cplmix_ray.distributed.ray_init import cluster_devices, joins_cluster, ray_session
from cplmix_ray.distributed.ray_watch import end_process, ray_watched
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.tuning.export import best_trial, draw_scores, export_best
from cplmix_ray.tuning.records import TrialState
from cplmix_ray.tuning.results_table import ResultsTable
from cplmix_ray.tuning.resume import read_search_state
from cplmix_ray.tuning.runner import run_trials
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.search_setup import SearchSetup, check_search
from cplmix_ray.tuning.sequential_runner import run_trials_sequentially
from cplmix_ray.utils.errors import RayStartError, TrainingError


@dataclass(frozen=True)
class SearchResult:
    """What a search ended with: ``best`` is None where no trial ran to its end, ``seed`` is that of the best's run."""

    trials: list[TrialState]
    best: TrialState | None
    seed: int | None
    metric: str


def run_search(
    spec: SearchConfig,
    source: Source,
    folder: SearchFolder,
    show: Callable[[Sequence[TrialState]], None] = lambda trials: None,
    say: Callable[[str], None] = lambda line: None,
    announce: Callable[[SearchSetup], None] = lambda setup: None,
) -> SearchResult:
    """Run a search, or the rest of one, and leave everything in ``folder``.

    Nothing in the folder can run code: all that is read from it is plain text, and weights in safetensors.

    Args:
        show: called with the trials after every change.
        say: called with a line for damaged records of a search that is resumed, and for what the disk refuses.
        announce: called before any trial runs.

    Raises:
        InputError: the space, the data or the devices do not allow the search, or the folder is that of an older
            version.
        TrainingError: Ray cannot be started, and the search asks for it.
    """
    metric = check_search(spec, source)
    train_idx, _ = split_source(source, spec.run.input.val_fraction, spec.run.seed)
    address = spec.run.placement.ray_address
    with contextlib.ExitStack() as stack:
        devices = local_devices()
        if joins_cluster(address):
            stack.enter_context(ray_session(address))
            devices = cluster_devices(spec.run.placement)
        n_steps = spec.run.training.steps(len(train_idx))
        setup = SearchSetup(spec, metric, devices, n_steps, folder)
        setup.plans()  # refuses trials for which there are too few devices
        folder.path.mkdir(parents=True, exist_ok=True)
        state = read_search_state(setup, say)
        run = run_trials
        if state.trials or state.n_more:
            try:
                stack.enter_context(ray_session(address))
            except RayStartError as error:
                _require_sequential(spec, error)
                say(f"Ray cannot be started ({error.reason}); the trials run one after the other in this process.")
                run = run_trials_sequentially
        save_search(spec, folder.spec)
        announce(setup)
        table = ResultsTable(folder, list(spec.space), show, state.history, say)
        if state.history:
            table.update([])
        if state.trials or state.n_more:
            # Data sets are built in an actor, whose working folder may be another one.
            build = functools.partial(build_dataset, root=Path.cwd())
            if run is run_trials:
                timeout = spec.run.placement.collective_timeout
                stack.enter_context(ray_watched(timeout, lambda ended: end_process(ended, lambda: _kept(folder))))
            table.close(run(setup, state, source, build, table.update, say))
    best = best_trial(table.trials, setup.mode)
    if best is None:
        return SearchResult(table.trials, None, None, metric)
    draw_scores(setup, table.trials)
    return SearchResult(table.trials, best, export_best(setup, best, source), metric)


def _kept(folder: SearchFolder) -> str:
    return f"finished trials and the checkpoints of the others are complete: continue with --resume --out {folder.path}"


def _require_sequential(spec: SearchConfig, error: RayStartError) -> None:
    """Refuse to run a search without Ray that needs it."""
    if spec.search.scheduler == "pbt":
        raise TrainingError(
            f"Ray cannot be started on this machine ({error.reason}), and --scheduler pbt, whose trials train side by "
            f"side, needs it; mend this, or begin another search with --scheduler asha or none."
        )
    if spec.run.placement.engine == "ray":
        raise error
