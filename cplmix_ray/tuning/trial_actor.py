"""A trial as Ray Tune runs it: a process on the driver's node, and a worker for each place it holds elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune import PlacementGroupFactory

from cplmix_ray.config import Config
from cplmix_ray.distributed.engines import Engine
from cplmix_ray.distributed.placement_group import Places, bundle_of
from cplmix_ray.distributed.plan import Plan
from cplmix_ray.distributed.restarts import train_through_losses
from cplmix_ray.tuning.dataset_cache import Shelf, StoredData
from cplmix_ray.tuning.heartbeat import Pulses

Report = dict[str, Any]
"""What a trial tells: ``step`` (over all its runs), ``score``, ``done``, and other figures; or why it ``failed``."""


@dataclass(frozen=True)
class Trial:
    """What the body of a trial is given.

    Attributes:
        name: short and unique in the search; the same again when the trial starts again.
        point: dotted names of the searched settings -> values.
    """

    name: str
    point: dict[str, Any]
    shelf: Shelf

    def data(self, config: Config) -> StoredData:
        return self.shelf.get(config)

    def engine(self, plan: Plan, data: StoredData) -> Engine:
        """The places of this trial; bundle 0 is that of the trial itself."""
        group = ray.util.get_current_placement_group()
        assert group is not None  # Ray Tune starts every trial in one
        places = Places(group, first=1)
        return Engine(plan, lambda config, _, start: train_through_losses(plan, config, data.stored, start, places))


def as_config(name: str, point: dict[str, Any]) -> dict[str, Any]:
    """A trial as Ray Tune's settings hold it."""
    return {"trial": {"name": name, "point": point}}


Body = Callable[[Trial], Iterator[Report]]
"""A trial's work: a generator of reports, which goes on from what the trial has left on the disk."""


class TrialActor(tune.Trainable):
    """Steps through the body from report to report. A stopped trial closes the body, which gives its devices back."""

    body: Body
    shelf: Shelf
    pulses: Pulses

    @classmethod
    def bound(cls, body: Body, shelf: Shelf, pulses: Pulses) -> type["TrialActor"]:
        """The class with what all trials of a search are given.

        Ray Tune's own way, with_parameters, keeps all of it in the object store until Ray ends.
        """
        return type(cls.__name__, (cls,), {"body": staticmethod(body), "shelf": shelf, "pulses": pulses})

    def setup(self, config: dict[str, Any]) -> None:
        self.pulses.beat()
        self.point = config["trial"]["point"]
        self.reports: Iterator[Report] | None = None

    def step(self) -> Report:
        if self.reports is None:
            self.reports = self.body(Trial(self.trial_name, self.point, self.shelf))
        return next(self.reports)

    def cleanup(self) -> None:
        if self.reports is not None:
            self.reports.close()  # type: ignore[attr-defined]

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing, as for the next: runs keep their own."""

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        pass


def bundles_of(plan: Plan) -> PlacementGroupFactory:
    """Exactly what a trial holds: a seat on the driver's node, which costs no device, and a place for each worker."""
    return PlacementGroupFactory([{_driver_node(): 0.001}] + [bundle_of(plan.gpu)] * len(plan.workers))


def _driver_node() -> str:
    """The resource that only the driver's node has."""
    here = ray.get_runtime_context().get_node_id()
    names = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return next(name for name in names if name.startswith("node:") and not name.startswith("node:__"))
