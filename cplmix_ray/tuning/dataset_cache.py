"""An actor that prepares data sets for the trials, each kind once, and holds them in Ray's object store."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cplmix_ray.config import RunConfig
from cplmix_ray.data.dataset import Dataset
from cplmix_ray.data.source import Source
from cplmix_ray.distributed.object_store import StoredSet
from cplmix_ray.models.registry import family_of
from cplmix_ray.utils.errors import InputError
from cplmix_ray.utils.extensions import load_extensions

_SIZE = 8
"""Data sets that are held when searches vary the data itself; running trials keep theirs in any case."""

_END_SECONDS = 5.0
"""Time in which the actor ends by itself."""


@dataclass(frozen=True)
class StoredData:
    """A data set whose cells are in the object store; the rest, ``known``, is pickled with this object."""

    stored: StoredSet
    known: dict[str, Any]

    def dataset(self) -> Dataset:
        """The data set, its arrays read-only views of the store."""
        return Dataset(training=self.stored.fetch(), **self.known)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, concurrency_groups={"source": 1, "end": 1})  # type: ignore[call-overload]
class _DatasetActor:
    """Runs without a device on the driver's node. If it dies, Ray restarts it and it prepares the data sets again."""

    def __init__(self, build: Callable[[Source, RunConfig], Dataset], register: Callable[[], None]) -> None:
        register()
        load_extensions()
        self.build, self.ready, self.over = build, threading.Event(), threading.Event()
        self.values: dict[str, list] = {}
        self.sets: dict[str, StoredData] = {}

    @ray.method(concurrency_group="source")
    def hold(self, source: list) -> None:
        """Take the source, and return at the end only: Ray repeats unfinished calls to an actor that it starts again.

        As an argument of the constructor, Ray would warn of its loss; passed by the trials, it would never be freed.
        """
        self.source = source
        self.ready.set()
        self.over.wait()

    @ray.method(concurrency_group="end")
    def end(self) -> None:
        self.over.set()

    def get(self, config: RunConfig) -> StoredData:
        self.ready.wait()
        values_key, key = (repr((config.family, each)) for each in family_of(config).dataset_keys(config))
        if key not in self.sets:
            data = self.build(ray.get(self.source[0]), config)
            stored = StoredSet.put(data.training, self.values.get(values_key))
            known = {name: value for name, value in vars(data).items() if name != "training"}
            self.sets[key], self.values[values_key] = StoredData(stored, known), stored.values
            for cache in (self.sets, self.values):
                while len(cache) > _SIZE:
                    del cache[next(iter(cache))]  # type: ignore[attr-defined]
        return self.sets[key]


@dataclass(frozen=True)
class DatasetCache:
    """Handle of the actor, which can be pickled and used in other processes."""

    actor: Any

    def get(self, config: RunConfig) -> StoredData:
        """The data set of a run, prepared at the first request.

        Raises:
            InputError: the settings do not fit the data.
        """
        try:
            return ray.get(self.actor.get.remote(config))
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise


@contextmanager
def dataset_cache(
    source: Source, build: Callable[[Source, RunConfig], Dataset], register: Callable[[], None] = lambda: None
) -> Iterator[DatasetCache]:
    """A cache on this node; when the context is left, nothing of it remains in the object store.

    Args:
        source: the cells as read; they are put into the object store once.
        build: makes a data set from the source for the settings of a run.
        register: called in the actor's process as it begins.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = _DatasetActor.options(scheduling_strategy=here).remote(build, register)  # type: ignore[attr-defined]
    held = actor.hold.remote([ray.put(source)])
    try:
        yield DatasetCache(actor)
    finally:
        ray.wait([actor.end.remote(), held], num_returns=2, timeout=_END_SECONDS)  # it may be stopped
        ray.kill(actor)
