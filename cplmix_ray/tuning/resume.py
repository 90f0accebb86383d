"""What is left to do of a search, by the records of its trials."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from cplmix_ray.config.search import SearchConfig
from cplmix_ray.tuning.exchanges import read_exchanges
from cplmix_ray.tuning.records import read_history
from cplmix_ray.tuning.sampling import draw_points
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.trial_state import History
from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class Rest:
    """What a search has to do.

    Attributes:
        trials: names and points of trials to run, those that go on among them.
        n_more: trials whose points are drawn as the search goes on.
        history: of all trials that were ever started.
        exchanged_at: in population based training, the step of the last exchange; 0 before the first.
    """

    trials: list[tuple[str, dict[str, Any]]]
    n_more: int
    history: list[History] = field(default_factory=list)
    exchanged_at: int = 0


def rest_of(spec: SearchConfig, folder: SearchFolder, metric: str, say: Callable[[str], None]) -> Rest:
    """Compare what a search asks for with what its folder holds.

    Points of grids and random draws are all known from the search's seed, so those of an interrupted search are the
    ones that it would have had. A trial has ended when it has run all its seeds, was stopped by the scheduler, or has
    failed in a way that it would repeat; all others go on.

    Args:
        say: told of damaged records, a line each.

    Raises:
        InputError: the folder is that of an older version.
    """
    drawn = {}
    if spec.search.searcher == "random":
        points = draw_points(spec.space, spec.n_draws, spec.search.search_seed)
        drawn = {f"{number:04d}": point for number, point in enumerate(points)}
    names = list(_names(folder))
    if folder.older.exists() and not any(folder.trial(name).entry.exists() for name in names):
        raise InputError(
            f"{folder.path} holds a search of an older version of cplmix_ray, which this one does not go on with; "
            f"start it anew with another --out."
        )
    exchanges, wrong = read_exchanges(folder, spec)
    for each in wrong:
        say(f"{each}; what they said is decided anew where that is still to be done.")
    moved = {move.name: move.point for exchange in exchanges for move in exchange.moves}
    history = []
    for name in names:
        if spec.search.searcher == "random" and name not in drawn:
            say(f"{folder.trial(name).path} is of no trial of this search and is passed over.")
            continue
        found, wrong = read_history(spec, folder.trial(name), metric, drawn.get(name))
        for each in wrong:
            rest = "is passed over" if found is None else f"goes on with what is whole ({found.state.status})"
            say(f"{each}; trial {name} {rest}.")
        if found is not None:
            # A kill may have come between an exchange and the trial's own record of its new point.
            point = moved.get(name, found.state.point)
            history.append(replace(found, state=replace(found.state, point=point)))
    over = {h.state.name for h in history if h.state.ended}
    points_now = drawn | {h.state.name: h.state.point for h in history}
    trials = [(name, point) for name, point in points_now.items() if name not in over]
    return Rest(trials, spec.n_trials() - len(points_now), history, exchanges[-1].step if exchanges else 0)


def _names(folder: SearchFolder) -> Iterator[str]:
    """Trials that have left anything."""
    for path in sorted(folder.trials.glob("[0-9]*")):
        if re.fullmatch(r"\d{4,}", path.name) and path.is_dir() and any(path.iterdir()):
            yield path.name
