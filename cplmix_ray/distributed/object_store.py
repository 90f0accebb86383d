"""A training set in Ray's object store: stored once, read without a copy by every worker on the node."""

from dataclasses import dataclass, replace

import ray

from cplmix_ray.data.training_set import TrainingSet


@dataclass(frozen=True)
class StoredSet:
    """References to a training set in the object store, kept in lists, so that Ray does not resolve them.

    The matrices, by far the largest part, are an object of their own, which training sets that differ only in their
    split or in their neighbors have in common.
    """

    values: list
    rest: list

    @classmethod
    def put(cls, data: TrainingSet, values: list | None = None) -> "StoredSet":
        """Store a training set.

        Args:
            values: reference to its matrices if they are in the store already.
        """
        values = values or [ray.put({name: each.matrix for name, each in data.modalities.items()})]
        modalities = {
            name: replace(each, matrix=None)  # type: ignore[arg-type]
            for name, each in data.modalities.items()
        }
        return cls(values, [ray.put(replace(data, modalities=modalities))])

    def fetch(self) -> TrainingSet:
        """The training set; its arrays are read-only views of the store."""
        matrices, rest = ray.get([self.values[0], self.rest[0]])
        modalities = {name: replace(each, matrix=matrices[name]) for name, each in rest.modalities.items()}
        return replace(rest, modalities=modalities)
