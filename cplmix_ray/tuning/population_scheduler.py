"""Population based training: trials that lag behind go on from better ones, by draws that the search's seed decides."""

import contextlib
import functools
import random
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from cplmix_ray.tuning.sampling import Space, domain_of, within
from cplmix_ray.tuning.spec import SearchJob
from cplmix_ray.tuning.trial_actor import as_config
from cplmix_ray.tuning.trial_state import Exchange, Move
from cplmix_ray.utils.errors import DiskError

_PAUSE = 5.0
"""Seconds before what the disk has refused is tried again."""


class Population(PopulationBasedTraining):
    """Ray Tune's population based training (Jaderberg et al. 2017), whose exchanges are kept and can be made again.

    Every trial waits at an exchange until all others are there too, or have ended; Ray Tune itself looks at that only
    when one of them reports, so the end of the last one to come would leave the others waiting for ever. An exchange is
    kept before any trial goes on from it, and no weights pass through Ray Tune: a trial that is moved finds those of
    the better one in that one's run. So a search that was killed goes on with the exchange that it had come to.

    Args:
        every: steps from one exchange to the next.
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
            synch=True,
        )
        self._next_perturbation_sync = job.exchanged_at + every
        self._search_seed, self._keep, self._say = job.search.search_seed, job.keep_exchange, job.say
        self._not_before = 0.0

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        """Let it wait, which gives its devices to others."""
        self._save_trial_state(self._trial_state[trial], result["step"], result, trial)
        return TrialScheduler.PAUSE

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """The one that is farthest behind the next exchange; before that, the exchange if all are there."""
        live = [trial for trial in tune_controller.get_trials() if not trial.is_finished()]
        if live and all(trial.status == TuneTrial.PAUSED and self._has_come(trial) for trial in live):
            self._exchange(live)
        return super().choose_trial_to_run(tune_controller)

    def _has_come(self, trial: TuneTrial) -> bool:
        return self._trial_state[trial].last_train_time >= self._next_perturbation_sync

    def _exchange(self, live: list[TuneTrial]) -> None:
        # All are at the same step, but for one that could not write its checkpoint there and came by at the next.
        step = max(self._trial_state[trial].last_train_time for trial in live)
        worse, better = self._quantiles()
        with _drawing(self._search_seed, step):
            pairs = [(trial, random.choice(better)) for trial in worse]
            moves = tuple(self._move(trial, origin) for trial, origin in pairs)
        if not self._kept(Exchange(step, moves)):
            return
        for (trial, origin), move in zip(pairs, moves, strict=True):
            trial.set_config(as_config(move.name, move.point))
            self._trial_state[trial].last_train_time = self._trial_state[origin].last_train_time
        self._next_perturbation_sync = step + self._perturbation_interval

    def _move(self, trial: TuneTrial, origin: TuneTrial) -> Move:
        config, _ = self._get_new_config(trial, origin)
        return Move(str(trial), str(origin), self._trial_state[origin].last_train_time, config["trial"]["point"])

    def _kept(self, exchange: Exchange) -> bool:
        """Whether the exchange is on the disk; else it is made again, the same, some seconds later."""
        if time.monotonic() < self._not_before:
            return False
        try:
            self._keep(exchange)
        except DiskError as error:
            if self._not_before == 0.0:
                self._say(f"{error} Until then all trials wait for the exchange.")
            self._not_before = time.monotonic() + _PAUSE
            return False
        self._not_before = 0.0
        return True


def _within(space: Space, config: dict[str, Any]) -> dict[str, Any]:
    return {"trial": {**config["trial"], "point": within(space, config["trial"]["point"])}}


@contextlib.contextmanager
def _drawing(*seed: int) -> Iterator[None]:
    """Ray Tune draws from the whole process's generators: lend them a seed, and put them back as they were."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    one, two = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    random.seed(one)
    np.random.seed(two)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
