"""A training set in Ray's object store: put once, read in place by every arm on the node."""

from dataclasses import dataclass, replace

import ray

from cplmix_ray.data.training_set import TrainingSet


@dataclass(frozen=True)
class StoredSet:
    """References to a training set, held in lists, so that they are passed on and not resolved on the way.

    The values, by far the largest part, are an object of their own: sets that differ only in their split or in their
    neighbours share them.
    """

    values: list
    rest: list

    @classmethod
    def put(cls, data: TrainingSet, values: list | None = None) -> "StoredSet":
        """Put the set, or only what differs where its ``values`` are in the store already."""
        return cls(values or [ray.put(data.values_ng)], [ray.put(replace(data, values_ng=None))])

    def fetch(self) -> TrainingSet:
        """The set, its arrays read-only views of the store."""
        values_ng, rest = ray.get([self.values[0], self.rest[0]])
        return replace(rest, values_ng=values_ng)
