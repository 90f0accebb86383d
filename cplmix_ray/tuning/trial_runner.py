"""What one trial does: a run for every seed, one after the other, each in a folder that a later start finds again."""

import contextlib
import statistics
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cplmix_ray.checkpoints.run_folder import RunFolder, write_json
from cplmix_ray.config import Config
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.distributed.plan import Devices, Plan, make_plan
from cplmix_ray.training.resume import checkpoint_to_resume
from cplmix_ray.training.run import conducting
from cplmix_ray.tuning.exchanges import Member, read_exchanges
from cplmix_ray.tuning.records import append_report, read_failure, whole_metrics
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.space import config_at
from cplmix_ray.tuning.trial_actor import Report, Trial
from cplmix_ray.utils.errors import InputError, NonFiniteError, TrainingError

REPORTED = ("acc", "ari", "nmi", "agreement", "consensus", "amp", "kl_qc_pc", "populated", "reconstruction")
"""Scores that a trial reports besides ``score``, each the mean over its finished runs."""


@dataclass(frozen=True)
class TrialWork:
    """The body of every trial of a search.

    Attributes:
        metric: the score that decides, 'auto' resolved.
        devices: what there is to run on, so that a trial's arms are spread as was planned.
        n_steps: steps of one run.
    """

    spec: SearchConfig
    metric: str
    devices: Devices
    n_steps: int
    out: Path

    def plan_at(self, point: dict[str, Any]) -> Plan:
        """Where the arms of a trial at this point go."""
        config = config_at(self.spec.run, point)
        return make_plan(config.placement, config.model.n_arms, self.devices)

    def __call__(self, trial: Trial) -> Iterator[Report]:
        """Reports of one trial; the last one of a trial that would fail again in the same way says why.

        Raises:
            InputError, TrainingError: a run failed, and may not do so the next time; why is in the trial's folder too.
        """
        folder = SearchFolder(self.out).trial(trial.name)
        failure = read_failure(folder)
        if failure is not None and failure.repeats:
            yield {"failed": failure.reason, "done": True}
            return
        with contextlib.suppress(OSError):
            folder.failure.unlink(missing_ok=True)
        try:
            with contextlib.closing(self._runs(trial)) as runs:  # a trial that is stopped gives its devices back
                for report in runs:
                    append_report(folder, report)
                    yield report
        except (InputError, TrainingError) as error:
            # What the disk refuses can be mended.
            refused = isinstance(error.__context__, OSError)
            repeats = isinstance(error, InputError | NonFiniteError) and not refused
            with contextlib.suppress(InputError, TrainingError):
                write_json(folder.failure, {"reason": str(error), "repeats": repeats})
            if not repeats:
                raise
            yield {"failed": str(error), "done": True}

    def _runs(self, trial: Trial) -> Generator[Report, None, None]:
        finished: list[dict[str, Any]] = []
        first = self.spec.run.seed
        for seed in range(first, first + self.spec.search.seeds):
            run = SearchFolder(self.out).trial(trial.name).run(seed)
            if whole_metrics(run, self.metric) is None:
                yield from self._run(trial, self._config(trial, seed), run, bool(finished))
            figures = whole_metrics(run, self.metric)
            if figures is None:
                raise TrainingError(f"{run.metrics} cannot be read, though it was just written.")
            finished.append(figures)
            complete = len(finished) == self.spec.search.seeds
            report = {"step": len(finished) * self.n_steps, **self._summary(finished)}
            yield {**report, "complete": complete, "done": complete}

    def _config(self, trial: Trial, seed: int) -> Config:
        config = config_at(self.spec.run, trial.point, seed)
        if self.spec.search.scheduler != "pbt":
            return config
        # Weights change hands at these steps, so there they are scored and saved. Those of the last exchange must be
        # there until all trials that take them have begun, when others may have come to the next one.
        every, kept = self.spec.search.exchange_every(self.n_steps), max(2, config.training.keep_checkpoints)
        saving = {"evaluate_every": every, "checkpoint_every": every, "keep_checkpoints": kept}
        return config.model_copy(update={"training": config.training.model_copy(update=saving)})

    def _run(self, trial: Trial, config: Config, run: RunFolder, later: bool) -> Iterator[Report]:
        """One run; while the first one goes on, its scores on the validation cells are reported."""
        exchanges = self.spec.search.scheduler == "pbt"
        data = trial.data(config)
        engine = trial.engine(self.plan_at(trial.point), data)
        dataset = data.dataset()
        if exchanges:
            folder = SearchFolder(self.out)
            member = Member(folder, trial.name, run, read_exchanges(folder, self.spec)[0])
            waiting = member.make_ready(config, self.n_steps)
            if waiting is not None:
                yield waiting
        checkpoint = None
        if run.holds_run():
            checkpoint = checkpoint_to_resume(run, config, dataset, lambda line: None, anew=True)
        for at in conducting(config, dataset, run, Quiet(), engine, checkpoint):
            if (
                at.step < self.n_steps
                and not later
                and self.metric in at.scores
                and (at.saved is not None) == exchanges
            ):
                scores = {name: at.scores[name] for name in REPORTED if name in at.scores}
                yield {"step": at.step, "score": at.scores[self.metric], **scores, "done": False}

    def _summary(self, finished: list[dict[str, Any]]) -> Report:
        scores = {
            name: statistics.fmean(metrics[name] for metrics in finished)
            for name in REPORTED
            if all(name in metrics for metrics in finished)
        }
        by_seed = [metrics[self.metric] for metrics in finished]
        return {
            "score": scores[self.metric],
            "score_sd": statistics.stdev(by_seed) if len(by_seed) > 1 else None,
            "scores": " ".join(f"{score:.4f}" for score in by_seed),
            "runs": len(finished),
            "seconds": round(sum(metrics["seconds"] for metrics in finished), 1),
            **scores,
        }


class Quiet:
    """Runs of a trial say nothing; the search does."""

    def say(self, line: str) -> None:
        """No words."""

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """No bar."""
