"""Schedulers of Ray Tune that know what an earlier process of the search has seen: successive halving (ASHA), which
stops trials early, and population based training, in which trials that lag behind continue from better ones.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from cplmix_ray.tuning.exchanges import Exchange, WeightTransfer, write_exchange
from cplmix_ray.tuning.search_setup import SearchSetup, SearchState
from cplmix_ray.tuning.searchers import clip_to_ranges, tune_config, tune_space
from cplmix_ray.utils.errors import DiskError

_RETRY_SECONDS = 5.0
"""Time after which an exchange that the disk refused is written again."""


def make_scheduler(setup: SearchSetup, state: SearchState, say: Callable[[str], None]) -> TrialScheduler:
    """The scheduler that a search asks for.

    Args:
        say: called with a line when an exchange cannot be written.
    """
    search, n_steps = setup.spec.search, setup.n_steps
    if search.scheduler == "asha":
        grace = min(search.grace_steps or max(1, n_steps // 4), n_steps * search.seeds)
        settings = {"max_t": n_steps * search.seeds, "grace_period": grace, "reduction_factor": search.reduction}
        return _ResumableASHA(setup, state, **settings)
    if search.scheduler == "pbt":
        return ResumablePBT(setup, state.exchanged_at, lambda exchange: write_exchange(setup.folder, exchange), say)
    return FIFOScheduler()


class _ResumableASHA(ASHAScheduler):
    """Successive halving that counts what trials have reported before.

    What was decided then is not decided again, so the answers to these reports are ignored.
    """

    def __init__(self, setup: SearchSetup, state: SearchState, **settings: Any):
        super().__init__(time_attr="step", metric="score", mode=setup.mode, **settings)
        self._earlier = {trial.name: trial.earlier for trial in state.history}
        for trial in state.ended:
            # Of a trial it reads only the id.
            self._add(SimpleNamespace(trial_id=trial.name), trial.name)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        self._add(trial, str(trial))

    def _add(self, trial: Any, name: str) -> None:
        super().on_trial_add(None, trial)  # type: ignore[arg-type]
        for report in self._earlier.pop(name, ()):
            super().on_trial_result(None, trial, report)  # type: ignore[arg-type]


class ResumablePBT(PopulationBasedTraining):
    """Ray Tune's population based training (Jaderberg et al. 2017), whose exchanges are recorded and reproducible.

    Every trial waits at an exchange until all others are there too, or have ended; Ray Tune itself looks at that only
    when one of them reports, so the end of the last one to come would leave the others waiting for ever. An exchange is
    written before any trial continues from it, and no weights pass through Ray Tune: a trial that is moved finds those
    of the better one in that one's run. So a search that was killed continues with the exchange that it had reached.

    Args:
        exchanged_at: step of the last exchange, 0 before the first.
        write: writes an exchange to the disk.
        say: called with a line when an exchange cannot be written.
    """

    def __init__(
        self, setup: SearchSetup, exchanged_at: int, write: Callable[[Exchange], None], say: Callable[[str], None]
    ):
        space, search = setup.spec.space, setup.spec.search
        every = search.exchange_every(setup.n_steps)
        domains = tune_space(space)
        super().__init__(
            time_attr="step",
            metric="score",
            mode=setup.mode,
            perturbation_interval=every,
            hyperparam_mutations={"trial": {"point": {name: d.values or domains[name] for name, d in space.items()}}},
            # It multiplies numbers without a look at their ranges.
            custom_explore_fn=lambda config: tune_config(
                config["trial"]["name"], clip_to_ranges(space, config["trial"]["point"])
            ),
            synch=True,
        )
        self._next_perturbation_sync = exchanged_at + every
        self._search_seed, self._write, self._say = search.search_seed, write, say
        self._retry_at = 0.0

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict) -> str:
        """Pause the trial, which gives its devices to others."""
        self._save_trial_state(self._trial_state[trial], result["step"], result, trial)
        return TrialScheduler.PAUSE

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """The trial that is farthest behind the next exchange; the exchange is made first if all have reached it."""
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
        with _seeded(self._search_seed, step):
            pairs = [(trial, random.choice(better)) for trial in worse]
            moves = tuple(self._move(trial, origin) for trial, origin in pairs)
        if not self._written(Exchange(step=step, moves=moves)):
            return
        for (trial, origin), move in zip(pairs, moves, strict=True):
            trial.set_config(tune_config(move.name, move.point))
            self._trial_state[trial].last_train_time = self._trial_state[origin].last_train_time
        self._next_perturbation_sync = step + self._perturbation_interval

    def _move(self, trial: TuneTrial, origin: TuneTrial) -> WeightTransfer:
        config, _ = self._get_new_config(trial, origin)
        step = self._trial_state[origin].last_train_time
        return WeightTransfer(name=str(trial), origin=str(origin), step=step, point=config["trial"]["point"])

    def _written(self, exchange: Exchange) -> bool:
        """Whether the exchange is on the disk; else it is made again, the same, some seconds later."""
        if time.monotonic() < self._retry_at:
            return False
        try:
            self._write(exchange)
        except DiskError as error:
            if self._retry_at == 0.0:
                self._say(f"{error} Until then all trials wait for the exchange.")
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            return False
        self._retry_at = 0.0
        return True


@contextlib.contextmanager
def _seeded(*seed: int) -> Iterator[None]:
    """Seed the process-wide generators, from which Ray Tune draws, and restore them afterwards."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    one, two = (int(word) for word in np.random.SeedSequence(seed).generate_state(2))
    random.seed(one)
    np.random.seed(two)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
