"""One actor that prepares data sets for the trials, each kind once, and keeps them in the object store."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cplmix_ray.config import Config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.source import Source
from cplmix_ray.engine.store import StoredSet
from cplmix_ray.engine.tune.pulse import Pulses
from cplmix_ray.errors import InputError

_KEPT = 8
"""Data sets that stay on the shelf when searches vary the data itself; trials under way keep theirs in any case."""


@dataclass(frozen=True)
class StoredData:
    """A data set whose cells are in the object store; of the rest, what is ``known`` travels with this."""

    stored: StoredSet
    known: dict[str, Any]

    @classmethod
    def put(cls, data: Dataset, values: list | None) -> "StoredData":
        """Put the cells, or only what differs where their ``values`` are in the store already."""
        known = {name: value for name, value in vars(data).items() if name != "training"}
        return cls(StoredSet.put(data.training, values), known)

    def dataset(self) -> Dataset:
        """The data set, its arrays read-only views of the store."""
        return Dataset(training=self.stored.fetch(), **self.known)


class _Keeper:
    """Runs as an actor without a device of its own, on the driver's node."""

    def __init__(self, pulses: Pulses | None) -> None:
        if pulses is not None:
            pulses.beat()
        self.values: OrderedDict[str, list] = OrderedDict()
        self.sets: OrderedDict[str, StoredData] = OrderedDict()

    def get(self, config: Config, source: list, build: Callable[[Source, Config], Dataset]) -> StoredData:
        values_key = repr((config.input, config.model.likelihood))
        key = repr((values_key, config.copies, config.seed, config.ensemble_of))
        if key not in self.sets:
            data = build(ray.get(source[0]), config)
            stored = self.sets[key] = StoredData.put(data, self.values.get(values_key))
            self.values[values_key] = stored.stored.values
            _forget(self.sets)
            _forget(self.values)
        return self.sets[key]

    def n_values(self) -> int:
        return len(self.values)


def _forget(kept: OrderedDict) -> None:
    while len(kept) > _KEPT:
        kept.popitem(last=False)


class Shelf:
    """The driver's and the trials' handle of the keeper; to be passed on to other processes as it is.

    Args:
        source: the cells as read; they go to the object store once.
        build: makes a data set of the source for the settings of a run.
        pulses: where the keeper leaves signs of life, in case that it is frozen.
    """

    def __init__(self, source: Source, build: Callable[[Source, Config], Dataset], pulses: Pulses | None = None):
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # A keeper that has died comes again, and prepares what it is asked for once more; so it is told of the source
        # with every question.
        lasting = {"max_restarts": -1, "max_task_retries": -1}
        keeper: Any = ray.remote(_Keeper).options(num_cpus=0, scheduling_strategy=here, **lasting)
        self._keeper: Any = keeper.remote(pulses)
        self._source, self._build = [ray.put(source)], build

    def get(self, config: Config) -> StoredData:
        """The data set of a run, prepared by the first who asks.

        Raises:
            InputError: the settings do not fit the data.
        """
        try:
            return ray.get(self._keeper.get.remote(config, self._source, self._build))
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise

    def n_values(self) -> int:
        """How many differently prepared matrices are in the store."""
        return ray.get(self._keeper.n_values.remote())

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *error: object) -> None:
        ray.kill(self._keeper)
