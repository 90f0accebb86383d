"""What a search is: its settings checked against the data, and what an earlier process has done of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cplmix_ray.config import RunConfig
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.data.source import Source
from cplmix_ray.distributed.plan import Devices, Plan, make_plan
from cplmix_ray.metrics.registry import METRICS, mode_of
from cplmix_ray.models.registry import family_of
from cplmix_ray.tuning.records import TrialState
from cplmix_ray.tuning.search_folder import SearchFolder
from cplmix_ray.tuning.space import check_space, config_at, possible_runs
from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class SearchSetup:
    """What all trials of a search have in common.

    Attributes:
        metric: the score that decides, 'auto' resolved.
        devices: the devices for which the trials' arms are planned.
        n_steps: steps of one run; a trial has ``n_steps`` times the number of seeds.
    """

    spec: SearchConfig
    metric: str
    devices: Devices
    n_steps: int
    folder: SearchFolder

    @property
    def mode(self) -> str:
        """Whether the metric is best at its 'max' or at its 'min'."""
        return mode_of(self.metric)

    @property
    def seeds(self) -> range:
        """Seeds of the runs of every trial."""
        return range(self.spec.run.seed, self.spec.run.seed + self.spec.search.seeds)

    def absolute(self) -> "SearchSetup":
        """The same for processes with another working folder."""
        return replace(self, folder=SearchFolder(self.folder.path.resolve()))

    def plan_at(self, point: dict[str, Any]) -> Plan:
        """Where the units of a trial at this point run."""
        return self._plan(config_at(self.spec.run, point))

    def plans(self) -> list[Plan]:
        """The plans that trials can have, by their number of units."""
        plans = {plan.n_units: plan for plan in map(self._plan, possible_runs(self.spec))}
        return [plans[n_units] for n_units in sorted(plans)]

    def _plan(self, config: RunConfig) -> Plan:
        family = family_of(config)
        return make_plan(config.placement, len(family.units(config)), self.devices, family.unit)


@dataclass(frozen=True)
class SearchState:
    """What is left to do of a search.

    Attributes:
        trials: names and points of trials to run, those that continue among them.
        n_more: trials whose points are drawn during the search.
        history: the trials that were ever started; those that continue are 'unfinished'.
        exchanged_at: in population based training, the step of the last exchange; 0 before the first.
    """

    trials: Sequence[tuple[str, dict[str, Any]]]
    n_more: int
    history: Sequence[TrialState] = ()
    exchanged_at: int = 0

    @property
    def ended(self) -> list[TrialState]:
        """Trials that are not run again."""
        going_on = {name for name, _ in self.trials}
        return [state for state in self.history if state.name not in going_on]


def check_search(spec: SearchConfig, source: Source) -> str:
    """Compare the space with the settings' bounds and the data, before anything starts.

    Returns:
        The metric, with 'auto' resolved.

    Raises:
        InputError: something does not fit.
    """
    check_space(spec)
    labelled = source.labels_n is not None and bool((source.labels_n != "").any())
    family, runs = family_of(spec.run), possible_runs(spec)
    metric = family.search_metric(labelled) if spec.search.metric == "auto" else spec.search.metric
    if metric is None:
        raise InputError(f"A search of the model family {family.name} needs the metric that decides it; add --metric.")
    if METRICS[metric].needs_labels and not labelled:
        raise InputError(
            f"--metric {metric} needs known types, and {source.name} comes without; name them with --labels-key or "
            f"use --metric agreement."
        )
    if METRICS[metric].needs_arms and any(len(family.units(run)) == 1 for run in runs):
        raise InputError(
            f"--metric {metric} compares {family.unit}s, and a run with one {family.unit} has nothing to compare; take "
            f"1 out of model.n_arms or use another --metric."
        )
    if spec.search.scheduler != "none" and spec.run.input.val_fraction == 0 and source.held_out_n is None:
        raise InputError(
            f"--scheduler {spec.search.scheduler} compares trials on validation cells, of which --val-fraction 0 "
            f"leaves none."
        )
    for run in runs:
        family.check_source(source, run)
    if spec.run.placement.engine == "ray_train":
        raise InputError("--engine ray_train is for single runs; a search uses auto, ray or local.")
    return metric
