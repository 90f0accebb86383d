"""Runs the trials of a search one after the other in this process, where Ray cannot be started."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.schedulers import TrialScheduler

from cplmix_ray.config import RunConfig
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.source import Source
from cplmix_ray.distributed.engines import Engine, engine_of
from cplmix_ray.distributed.failure_causes import short_text
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.models.registry import family_of
from cplmix_ray.tuning.records import Report, TrialState
from cplmix_ray.tuning.runner import Listener, time_limit
from cplmix_ray.tuning.schedulers import make_scheduler
from cplmix_ray.tuning.search_setup import SearchSetup, SearchState
from cplmix_ray.tuning.searchers import make_searcher
from cplmix_ray.tuning.trial import Trial
from cplmix_ray.utils.errors import InputError, TrainingError


def run_trials_sequentially(
    setup: SearchSetup,
    state: SearchState,
    source: Source,
    build: Callable[[Source, RunConfig], Dataset],
    listener: Listener,
    say: Callable[[str], None],
) -> list[TrialState]:
    """Like :func:`cplmix_ray.tuning.runner.run_trials`, without Ray: every trial trains its units in this process.

    Searchers and schedulers are Ray Tune's own, except population based training, whose trials train together.
    """
    placement = setup.spec.run.placement.model_copy(update={"engine": "local"})
    run = setup.spec.run.model_copy(update={"placement": placement})
    setup = replace(setup, spec=setup.spec.model_copy(update={"run": run}))
    prepare, scheduler = _InMemory(source, build), make_scheduler(setup, state, say)
    states = {name: TrialState(name, "waiting", point) for name, point in state.trials}
    searcher = make_searcher(setup, state)[0] if setup.spec.search.searcher == "optuna" else None
    with contextlib.suppress(KeyboardInterrupt), time_limit(setup.spec.search.max_hours, signal.SIGINT):
        for number in range(len(state.trials) + state.n_more):
            if searcher is None:  # all points are known
                name, point = state.trials[number]
            else:
                name, point = searcher.suggest(str(number))["trial"].values()
            for each in _states(Trial(setup, name, point, prepare), scheduler):
                states[name] = each
                listener(list(states.values()))
            if searcher is not None:
                searcher.on_trial_complete(str(number), states[name].report, states[name].status == "failed")
    return [replace(each, status="unfinished") if each.status == "running" else each for each in states.values()]


def _states(trial: Trial, scheduler: TrialScheduler) -> Iterator[TrialState]:
    """Run a trial; yields its state at the start and after every report, the last that in which it ends."""
    known: Any = _Named(trial.name)  # of a trial, the schedulers read only the name
    state = TrialState(trial.name, "running", trial.point)
    yield state
    scheduler.on_trial_add(None, known)  # type: ignore[arg-type]
    with contextlib.closing(trial.reports()) as reports:
        while state.status == "running":
            try:
                report = next(reports)
            except (InputError, TrainingError) as error:
                state = replace(state, status="failed", error=str(error))
            except Exception as error:  # as with Ray, a mistake in a part of somebody's own ends its trial alone
                state = replace(state, status="failed", error=short_text(error))
            else:
                state = _after(state, report, known, scheduler)
            yield state


def _after(state: TrialState, report: Report, known: Any, scheduler: TrialScheduler) -> TrialState:
    """The state of a trial after a report, of which the scheduler is told."""
    if "failed" in report:
        return replace(state, status="failed", report={}, error=report["failed"])
    state = replace(state, report=report)
    if report["done"]:
        scheduler.on_trial_complete(None, known, report)  # type: ignore[arg-type]
        return replace(state, status="done")
    stops = scheduler.on_trial_result(None, known, report) == TrialScheduler.STOP  # type: ignore[arg-type]
    return replace(state, status="stopped") if stops else state


@dataclass(frozen=True)
class _Named:
    """A trial as far as the schedulers know it."""

    trial_id: str

    def __str__(self) -> str:
        return self.trial_id


class _InMemory:
    """Gives the data sets of runs, and holds the newest one."""

    def __init__(self, source: Source, build: Callable[[Source, RunConfig], Dataset]):
        self.source, self.build = source, build
        self.held: tuple[str, Dataset] | None = None

    def __call__(self, config: RunConfig, plan: Plan) -> tuple[Dataset, Engine]:
        key = repr((config.family, family_of(config).dataset_keys(config)[1]))
        if self.held is None or self.held[0] != key:
            self.held = key, self.build(self.source, config)
        return self.held[1], engine_of(plan)
