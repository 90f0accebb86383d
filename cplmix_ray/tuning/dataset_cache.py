"""One actor that prepares data sets for the trials, each kind once, and keeps them in the object store."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cplmix_ray.config import Config
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.source import Source
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.tuning.heartbeat import Pulses
from cplmix_ray.utils.errors import InputError

_KEPT = 8
"""Data sets that stay on the shelf when searches vary the data itself; trials under way keep theirs in any case."""

_GRACE = 5.0
"""Seconds in which a keeper ends by itself."""


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


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, concurrency_groups={"source": 1, "end": 1})  # type: ignore[call-overload]
class _Keeper:
    """Runs as an actor without a device of its own, on the driver's node.

    One that has died comes again, and prepares what it is asked for once more.
    """

    def __init__(self, build: Callable[[Source, Config], Dataset], pulses: Pulses | None) -> None:
        if pulses is not None:
            pulses.beat()
        self.build, self.told, self.over = build, threading.Event(), threading.Event()
        self.values: OrderedDict[str, list] = OrderedDict()
        self.sets: OrderedDict[str, StoredData] = OrderedDict()

    @ray.method(concurrency_group="source")
    def keep(self, source: list) -> None:
        """Take the source, and return at the end only: Ray makes calls under way once more to a keeper that has died
        and starts again. (Handed to a constructor, Ray warns of its loss; handed on by the trials, it stays for good.)
        """
        self.source = source
        self.told.set()
        self.over.wait()

    @ray.method(concurrency_group="end")
    def end(self) -> None:
        self.over.set()

    def get(self, config: Config) -> StoredData:
        self.told.wait()
        values_key = repr((config.input, config.model.likelihood))
        key = repr((values_key, config.copies, config.seed, config.ensemble_of))
        if key not in self.sets:
            data = self.build(ray.get(self.source[0]), config)
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


@dataclass(frozen=True)
class Shelf:
    """The handle of the keeper; to be passed on to other processes as it is."""

    keeper: Any

    def get(self, config: Config) -> StoredData:
        """The data set of a run, prepared by the first who asks.

        Raises:
            InputError: the settings do not fit the data.
        """
        try:
            return ray.get(self.keeper.get.remote(config))
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise

    def n_values(self) -> int:
        """How many differently prepared matrices are in the store."""
        return ray.get(self.keeper.n_values.remote())


@contextmanager
def shelf_of(
    source: Source, build: Callable[[Source, Config], Dataset], pulses: Pulses | None = None
) -> Iterator[Shelf]:
    """A shelf on this node; when it is left, the object store holds nothing of it.

    Args:
        source: the cells as read; they go to the object store once.
        build: makes a data set of the source for the settings of a run.
        pulses: where the keeper leaves signs of life, in case that it is frozen.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper: Any = _Keeper.options(scheduling_strategy=here).remote(build, pulses)  # type: ignore[attr-defined]
    kept = keeper.keep.remote([ray.put(source)])
    try:
        yield Shelf(keeper)
    finally:
        ray.wait([keeper.end.remote(), kept], num_returns=2, timeout=_GRACE)  # it may stand still
        ray.kill(keeper)
