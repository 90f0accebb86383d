"""Which trials Ray Tune stops or sends on from others, knowing what an earlier process has seen of them."""

from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from cplmix_ray.tuning.population_scheduler import Population
from cplmix_ray.tuning.spec import SearchJob


def scheduler_of(job: SearchJob) -> TrialScheduler:
    """The scheduler that a search asks for."""
    search, n_steps = job.search, job.n_steps
    if search.scheduler == "asha":
        grace = min(search.grace_steps or max(1, n_steps // 4), n_steps * search.seeds)
        return _Halving(job, max_t=n_steps * search.seeds, grace_period=grace, reduction_factor=search.reduction)
    if search.scheduler == "pbt":
        return Population(job, search.exchange_every(n_steps))
    return FIFOScheduler()


class _Halving(ASHAScheduler):
    """Successive halving that counts what trials have reported before.

    What was decided then stands, so the answers to these reports are passed over.
    """

    def __init__(self, job: SearchJob, **settings: Any):
        super().__init__(time_attr="step", metric="score", mode=job.mode, **settings)
        self._earlier = {history.state.name: history.reports for history in job.history}
        for history in job.ended:
            # Of a trial it looks at no more than its identity.
            self._add(SimpleNamespace(trial_id=history.state.name), history.state.name)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._add(trial, str(trial))

    def _add(self, trial: Any, name: str) -> None:
        super().on_trial_add(None, trial)  # type: ignore[arg-type]
        for report in self._earlier.pop(name, ()):
            super().on_trial_result(None, trial, report)  # type: ignore[arg-type]
