"""Where Ray Tune has the points of its trials from."""

import math
from typing import Any

import numpy as np
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from cplmix_ray.tuning.sampling import domains_of
from cplmix_ray.tuning.spec import SearchJob
from cplmix_ray.tuning.trial_actor import as_config
from cplmix_ray.utils.errors import InputError


def searcher_of(job: SearchJob) -> tuple[Any, dict[str, Any]]:
    """The searcher of a job, and the space that Ray Tune is given beside it.

    Raises:
        InputError: the searcher is not installed.
    """
    if job.search.searcher == "optuna":
        return _Optuna(job), {}
    # All points are known, so the space is a grid of them. Ray Tune heeds a limit of its own generator alone; a
    # population must be there as a whole, and takes turns where devices are few.
    limit = None if job.search.scheduler == "pbt" else job.search.max_concurrent
    return BasicVariantGenerator(max_concurrent=limit or 0), {
        "trial": tune.grid_search([c["trial"] for c in job.configs])
    }


class _Optuna(Searcher):
    """Optuna's points, with the names of their trials.

    A resumed search tells it the scores of the trials that have ended and lets it hand out the points of those that go
    on. Its own draws begin from another seed then: from the same one it would draw its first points once more.
    """

    def __init__(self, job: SearchJob):
        super().__init__(metric="score", mode=job.mode)
        try:
            import optuna
            from ray.tune.search.optuna import OptunaSearch
        except ImportError:
            raise InputError(
                "--searcher optuna needs Optuna: pip install 'cplmix_ray[optuna]', or use --searcher random."
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        n_drawn = len(job.ended) + len(job.trials)
        seed = job.search.search_seed
        if n_drawn:
            seed = int(np.random.SeedSequence([seed, n_drawn]).generate_state(1)[0])
        self.optuna = OptunaSearch(
            OptunaSearch.convert_search_space(domains_of(job.space)),
            metric="score",
            mode=job.mode,
            points_to_evaluate=[point for _, point in job.trials],
            seed=seed,
        )
        for history in job.ended:
            state, score = history.state, history.state.report.get("score")
            if state.status == "failed" or score is None:
                self.optuna.add_evaluated_point(state.point, math.nan, error=True)
            else:
                self.optuna.add_evaluated_point(state.point, score)
        self.names = [name for name, _ in job.trials]
        self.name_trial = job.name_trial

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        point = self.optuna.suggest(trial_id)
        return None if point is None else as_config(self.names.pop(0) if self.names else self.name_trial(), point)

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        self.optuna.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        failed = error or "failed" in (result or {})
        self.optuna.on_trial_complete(trial_id, None if failed else result, failed)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a search goes on from the records of its trials."""
