"""Which trials Ray Tune stops or sends on from others, knowing what an earlier process has seen of them."""

import functools
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from cplmix_ray.engine.tune.draws import Space, domain_of, within
from cplmix_ray.engine.tune.job import SearchJob


def scheduler_of(job: SearchJob) -> TrialScheduler:
    """The scheduler that a search asks for."""
    search, n_steps = job.search, job.n_steps
    if search.scheduler == "asha":
        grace = min(search.grace_steps or max(1, n_steps // 4), n_steps * search.seeds)
        return _Halving(job, max_t=n_steps * search.seeds, grace_period=grace, reduction_factor=search.reduction)
    if search.scheduler == "pbt":
        return _Population(job, search.exchange_every(n_steps))
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


class _Population(PopulationBasedTraining):
    """Population based training whose members always have a next exchange to train for.

    Ray Tune sets it at the step of the member that is farthest ahead if members are at different steps, as they can be
    when a search goes on; those that had got there would then wait for ever.
    """

    def __init__(self, job: SearchJob, every: int):
        super().__init__(
            time_attr="step",
            metric="score",
            mode=job.mode,
            perturbation_interval=every,
            hyperparam_mutations={
                "trial": {"point": {name: d.values or domain_of(d) for name, d in job.space.items()}}
            },
            custom_explore_fn=functools.partial(_within, job.space),
            synch=True,  # else a trial that goes on from one with fewer steps may be sent back over and over
        )

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        before = self._next_perturbation_sync
        decision = super().on_trial_result(tune_controller, trial, result)
        if self._next_perturbation_sync != before:
            farthest = max(self._trial_state[each].last_train_time for each in tune_controller.get_live_trials())
            self._next_perturbation_sync = farthest + self._perturbation_interval
        return decision


def _within(space: Space, config: dict[str, Any]) -> dict[str, Any]:
    return {"trial": {**config["trial"], "point": within(space, config["trial"]["point"])}}
