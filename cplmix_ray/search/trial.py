"""What one trial does: a run for every seed, one after the other, each in a folder that a later start finds again."""

import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cplmix_ray.config import Config
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.engine.plan import Devices, Plan, make_plan
from cplmix_ray.engine.tune.trial import Report, Trial
from cplmix_ray.errors import InputError, NonFiniteError, TrainingError
from cplmix_ray.run.conduct import conducting
from cplmix_ray.run.folder import RunFolder, write_json
from cplmix_ray.run.resume import checkpoint_to_resume
from cplmix_ray.search.folder import SearchFolder
from cplmix_ray.search.space import config_at
from cplmix_ray.trainer.checkpoint import Checkpoint

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

    def __call__(self, trial: Trial) -> Iterator[tuple[Report, Path | None]]:
        """Reports of one trial.

        Raises:
            InputError, TrainingError: a run failed; why is in the trial's folder too.
        """
        folder = SearchFolder(self.out).trial(trial.name)
        if folder.failure.exists():
            # The same settings would fail again at the same step.
            failure = json.loads(folder.failure.read_text(encoding="utf-8"))
            if failure["repeats"]:
                raise TrainingError(failure["reason"])
        try:
            yield from self._runs(trial)
        except (InputError, TrainingError) as error:
            repeats = isinstance(error, InputError | NonFiniteError)
            write_json(folder.failure, {"reason": str(error), "repeats": repeats})
            raise

    def _runs(self, trial: Trial) -> Iterator[tuple[Report, Path | None]]:
        finished: list[dict[str, Any]] = []
        first = self.spec.run.seed
        for seed in range(first, first + self.spec.search.seeds):
            run = SearchFolder(self.out).trial(trial.name).run(seed)
            if not run.metrics.exists():
                yield from self._run(trial, self._config(trial, seed), run, bool(finished))
            finished.append(json.loads(run.metrics.read_text(encoding="utf-8")))
            complete = len(finished) == self.spec.search.seeds
            report = {"step": len(finished) * self.n_steps, **self._summary(finished)}
            yield {**report, "complete": complete, "done": complete}, None

    def _config(self, trial: Trial, seed: int) -> Config:
        config = config_at(self.spec.run, trial.point, seed)
        if self.spec.search.scheduler != "pbt":
            return config
        # Weights change hands at these steps, so there they are scored and saved.
        every = self.spec.search.exchange_every(self.n_steps)
        training = config.training.model_copy(update={"evaluate_every": every, "checkpoint_every": every})
        return config.model_copy(update={"training": training})

    def _run(self, trial: Trial, config: Config, run: RunFolder, later: bool) -> Iterator[tuple[Report, Path | None]]:
        """One run; while the first one goes on, its scores on the validation cells are reported."""
        exchanges = self.spec.search.scheduler == "pbt"
        data = trial.data(config)
        engine = trial.engine(self.plan_at(trial.point), data)
        dataset = data.dataset()
        checkpoint = self._checkpoint(trial, config, run, dataset) if run.holds_run() or trial.checkpoint else None
        for at in conducting(config, dataset, run, Quiet(), engine, checkpoint):
            if (
                at.step < self.n_steps
                and not later
                and self.metric in at.scores
                and (at.saved is not None) == exchanges
            ):
                scores = {name: at.scores[name] for name in REPORTED if name in at.scores}
                yield {"step": at.step, "score": at.scores[self.metric], **scores, "done": False}, at.saved

    def _checkpoint(self, trial: Trial, config: Config, run: RunFolder, dataset: Any) -> Checkpoint | None:
        if trial.checkpoint is not None:
            # What this trial had reached gives way to what a better one has, whose settings differ on purpose.
            shutil.rmtree(run.checkpoints, ignore_errors=True)
            return trial.checkpoint
        return checkpoint_to_resume(run, config, dataset, lambda line: None, anew=True)

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
