"""What a search is, for Ray Tune, and how its trials are told to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cplmix_ray.config.search import Search
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.tuning.sampling import Point, Space
from cplmix_ray.tuning.trial_actor import Body, as_config
from cplmix_ray.tuning.trial_state import Exchange, History


@dataclass(frozen=True)
class SearchJob:
    """All that Ray Tune needs to know.

    Attributes:
        mode: 'max' or 'min' of ``score``.
        n_steps: steps of one run; of a trial, ``n_steps`` times the number of seeds.
        body: the work of a trial.
        plan_at: where the arms of a trial go, by its point.
        trials: names and points of the trials to run, as far as they are known before.
        n_more: how many more the searcher draws itself.
        name_trial: gives each of these its name.
        patience: seconds after which a trial's process without a sign of life is ended.
        history: what an earlier process has left of trials: of those that have ended, and of those that go on.
        exchanged_at: in population based training, the step of the last exchange; 0 before the first.
        keep_exchange: keeps an exchange, before any of its trials goes on; raises DiskError where it cannot.
        say: told of what keeps the search from going on.
    """

    space: Space
    search: Search
    mode: str
    n_steps: int
    body: Body
    plan_at: Callable[[Point], Plan]
    trials: Sequence[tuple[str, Point]]
    n_more: int
    name_trial: Callable[[], str]
    patience: float
    history: Sequence[History] = ()
    exchanged_at: int = 0
    keep_exchange: Callable[[Exchange], None] = lambda exchange: None
    say: Callable[[str], None] = lambda line: None

    @property
    def configs(self) -> list[dict[str, Any]]:
        """The known trials as Ray Tune hands them on."""
        return [as_config(name, point) for name, point in self.trials]

    @property
    def ended(self) -> list[History]:
        """Trials that are not run again."""
        going_on = {name for name, _ in self.trials}
        return [history for history in self.history if history.state.name not in going_on]
