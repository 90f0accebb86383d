"""One trial of a search: a run for every seed, one after the other, as an actor of Ray Tune."""

import contextlib
import functools
import statistics
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from cplmix_ray.checkpoints.run_folder import RunFolder
from cplmix_ray.config import RunConfig
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.distributed.engines import Engine
from cplmix_ray.distributed.placement_group import ReservedDevices, worker_resources
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.restarts import train_with_restarts
from cplmix_ray.metrics.registry import names_in
from cplmix_ray.runs.resume import checkpoint_to_resume
from cplmix_ray.runs.run import training_milestones
from cplmix_ray.tuning.dataset_cache import DatasetCache
from cplmix_ray.tuning.exchanges import PopulationMember, read_exchanges
from cplmix_ray.tuning.records import Report, append_record, read_failure, read_metrics
from cplmix_ray.tuning.search_setup import SearchSetup
from cplmix_ray.tuning.space import config_at
from cplmix_ray.tuning.stopped_processes import StoppedProcessKiller
from cplmix_ray.utils.durable import write_json
from cplmix_ray.utils.errors import InputError, NonFiniteError, TrainingError
from cplmix_ray.utils.extensions import load_extensions


class TrialActor(tune.Trainable):
    """Runs on the driver's node and advances a trial from report to report.

    A trial that is stopped closes its reports, which gives its devices back.
    """

    setup_of_search: SearchSetup
    datasets: DatasetCache
    killer: StoppedProcessKiller

    @classmethod
    def bound(cls, setup: SearchSetup, datasets: DatasetCache, killer: StoppedProcessKiller) -> type["TrialActor"]:
        """The class with what all trials of a search are given.

        Ray Tune's own way, with_parameters, keeps all of it in the object store until Ray ends.
        """
        return type(cls.__name__, (cls,), {"setup_of_search": setup, "datasets": datasets, "killer": killer})

    def setup(self, config: dict[str, Any]) -> None:
        self.killer.register()
        load_extensions()
        self.point = config["trial"]["point"]
        self.reports: Generator[Report, None, None] | None = None

    def step(self) -> Report:
        if self.reports is None:
            prepare = functools.partial(_prepare, self.datasets)
            self.reports = Trial(self.setup_of_search, self.trial_name, self.point, prepare).reports()
        return next(self.reports)

    def cleanup(self) -> None:
        if self.reports is not None:
            self.reports.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: runs write their own checkpoints."""

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        """Nothing: runs read their own checkpoints."""


@dataclass(frozen=True)
class Trial:
    """The work of one trial, which continues from what it has left in its folder.

    Attributes:
        name: unique in the search; the same when the trial starts again.
        point: dotted names of the searched settings -> values.
        prepare: gives the data set of a run and the engine that trains it according to the plan.
    """

    setup: SearchSetup
    name: str
    point: dict[str, Any]
    prepare: Callable[[RunConfig, Plan], tuple[Dataset, Engine]]

    def reports(self) -> Generator[Report, None, None]:
        """Reports of the trial; the last report of a trial that would fail again in the same way says why.

        Raises:
            InputError, TrainingError: a run failed, and may not fail the next time; why is in failure.json too.
        """
        folder = self.setup.folder.trial(self.name)
        failure = read_failure(folder)
        if failure is not None and failure.repeats:
            yield {"failed": failure.reason, "done": True}
            return
        with contextlib.suppress(OSError):
            folder.failure.unlink(missing_ok=True)
        try:
            with contextlib.closing(self._runs()) as runs:
                for report in runs:
                    append_record(folder.reports, report)
                    yield report
        except (InputError, TrainingError) as error:
            refused_by_disk = isinstance(error.__context__, OSError)  # which can be mended
            repeats = isinstance(error, InputError | NonFiniteError) and not refused_by_disk
            with contextlib.suppress(InputError, TrainingError):
                write_json(folder.failure, {"reason": str(error), "repeats": repeats})
            if not repeats:
                raise
            yield {"failed": str(error), "done": True}

    def _runs(self) -> Generator[Report, None, None]:
        """Reports of the runs, without regard to failures."""
        metric, seeds = self.setup.metric, self.setup.seeds
        finished: list[dict[str, float]] = []
        for seed in seeds:
            run = self.setup.folder.trial(self.name).run(seed)
            if read_metrics(run, metric) is None:
                yield from self._run(self._config(seed), run, report_scores=not finished)
            metrics = read_metrics(run, metric)
            if metrics is None:
                raise TrainingError(f"{run.metrics} cannot be read, though it was just written.")
            finished.append(metrics)
            complete = len(finished) == len(seeds)
            report = {"step": len(finished) * self.setup.n_steps, **summarize_runs(finished, metric)}
            yield {**report, "complete": complete, "done": complete}

    def _config(self, seed: int) -> RunConfig:
        spec = self.setup.spec
        config = config_at(spec.run, self.point, seed)
        if spec.search.scheduler != "pbt":
            return config
        # Trials take weights at these steps, so there they are scored and saved. Those of the last exchange must be
        # there until all trials that take them have begun, when others may have come to the next one.
        every, kept = spec.search.exchange_every(self.setup.n_steps), max(2, config.training.keep_checkpoints)
        saving = {"evaluate_every": every, "checkpoint_every": every, "keep_checkpoints": kept}
        return config.model_copy(update={"training": config.training.model_copy(update=saving)})

    def _run(self, config: RunConfig, run: RunFolder, report_scores: bool) -> Iterator[Report]:
        """One run; where asked for, its scores on the validation cells are reported while it trains."""
        setup, pbt = self.setup, self.setup.spec.search.scheduler == "pbt"
        dataset, engine = self.prepare(config, setup.plan_at(self.point))
        if pbt:
            exchanges, _ = read_exchanges(setup.folder, setup.spec)
            waiting = PopulationMember(setup.folder, self.name, run, exchanges).prepare(config, setup.n_steps)
            if waiting is not None:
                yield waiting
        checkpoint = None
        if run.holds_run():
            checkpoint = checkpoint_to_resume(run, config, dataset, lambda line: None, restart_damaged=True)
        for at in training_milestones(config, dataset, run, NoProgress(), engine, checkpoint):
            due = setup.metric in at.scores and (at.saved is not None) == pbt
            if report_scores and at.step < setup.n_steps and due:
                scores = {name: at.scores[name] for name in names_in("trials") if name in at.scores}
                yield {"step": at.step, "score": at.scores[setup.metric], **scores, "done": False}


def summarize_runs(finished: list[dict[str, float]], metric: str) -> Report:
    """The score of a trial over its finished runs: mean, standard deviation, the single scores, and other means.

    Args:
        finished: metrics of each run.
    """
    scores = {
        name: statistics.fmean(metrics[name] for metrics in finished)
        for name in names_in("trials")
        if all(name in metrics for metrics in finished)
    }
    by_seed = [metrics[metric] for metrics in finished]
    return {
        "score": scores[metric],
        "score_sd": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
        "scores": " ".join(f"{score:.4f}" for score in by_seed),
        "runs": len(finished),
        "seconds": round(sum(metrics["seconds"] for metrics in finished), 1),
        **scores,
    }


class NoProgress:
    """Shows nothing of a run."""

    def say(self, line: str) -> None:
        """Show no line."""

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """Show no step."""


def _prepare(datasets: DatasetCache, config: RunConfig, plan: Plan) -> tuple[Dataset, Engine]:
    """Data in the object store, and an engine inside this trial's placement group, whose bundle 0 is that of the trial
    itself.
    """
    data = datasets.get(config)
    group = ray.util.get_current_placement_group()
    assert group is not None  # Ray Tune starts every trial in one
    reserved = ReservedDevices(group, first=1)
    engine = Engine(plan, lambda config, _, start: train_with_restarts(plan, config, data.stored, start, reserved))
    return data.dataset(), engine


def trial_resources(plan: Plan) -> PlacementGroupFactory:
    """What a trial holds: a bundle on the driver's node, which costs no device, and a bundle for each worker."""
    return PlacementGroupFactory([{_driver_node(): 0.001}] + [worker_resources(plan.gpu)] * len(plan.workers))


def _driver_node() -> str:
    """The resource that only the driver's node has."""
    here = ray.get_runtime_context().get_node_id()
    names = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next(name for name in names if name.startswith("node:") and not name.startswith("node:__"))
