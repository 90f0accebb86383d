"""Dendrograms of cell types: cut, and how far apart their leaves are."""

from dataclasses import dataclass

import numpy as np

from cplmix_ray.utils.errors import InputError


@dataclass(frozen=True)
class Tree:
    """A rooted tree, parents before their children.

    Attributes:
        labels: names of the nodes.
        parents: index of each node's parent; -1 for the root, which comes first.
        heights: height of each node above the leaves' ground; it never rises from parent to child.
    """

    labels: tuple[str, ...]
    parents: np.ndarray
    heights: np.ndarray

    @property
    def children(self) -> list[list[int]]:
        below: list[list[int]] = [[] for _ in self.labels]
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                below[parent].append(node)
        return below

    @property
    def leaves(self) -> np.ndarray:
        """Indices of the nodes without children."""
        return np.setdiff1d(np.arange(len(self.labels)), self.parents)

    @property
    def lengths(self) -> np.ndarray:
        """Length of the branch above each node, as a share of the root's height; 0 above the root."""
        above = np.where(self.parents < 0, self.heights, self.heights[self.parents])
        return (above - self.heights) / max(float(self.heights[0]), np.finfo(float).tiny)

    def below(self, node: int) -> list[int]:
        """Leaves at or under a node."""
        children, found, stack = self.children, [], [node]
        while stack:
            at = stack.pop()
            found += [] if children[at] else [at]
            stack += children[at]
        return sorted(found)

    def sizes(self) -> np.ndarray:
        """Number of leaves at or under each node."""
        size = np.zeros(len(self.labels), int)
        size[self.leaves] = 1
        for node in range(len(self.labels) - 1, 0, -1):
            size[self.parents[node]] += size[node]
        return size

    def cut(self, n: int) -> list[int]:
        """The n nodes that are left when the highest nodes give way to their children, one after the other.

        Where a node has more than two children, there may be a few more than n.
        """
        children, nodes = self.children, [0]
        while len(nodes) < n:
            inner = [node for node in nodes if children[node]]
            if not inner:
                break
            top = max(inner, key=lambda node: (self.heights[node], -node))
            at = nodes.index(top)
            nodes[at : at + 1] = children[top]
        return nodes

    def reduced(self, n_types: int) -> "Tree":
        """A tree of n leaves: the branch that has as many, else the whole with its closest leaves merged.

        Raises:
            InputError: there are fewer leaves, or merging skips that number.
        """
        sizes = self.sizes()
        if n_types > sizes[0]:
            raise InputError(f"The tree has {sizes[0]} leaves, fewer than --types {n_types}; lower --types.")
        exact = np.flatnonzero(sizes == n_types)
        if len(exact):
            return self._restricted(int(exact[0]), set())
        ends = set(self.cut(n_types))
        if len(ends) != n_types:
            raise InputError(f"The tree cannot be cut into {n_types} types, as nodes of it have several children.")
        return self._restricted(0, ends)

    def _restricted(self, root: int, ends: set[int]) -> "Tree":
        """The part below a root, down to some nodes that become leaves."""
        children, kept, stack = self.children, [], [root]
        while stack:
            node = stack.pop()
            kept.append(node)
            stack += [] if node in ends else reversed(children[node])
        at = {node: i for i, node in enumerate(kept)}
        parents = np.array([-1 if node == root else at[self.parents[node]] for node in kept])
        heights = np.array([0.0 if node in ends else self.heights[node] for node in kept])
        return Tree(tuple(self.labels[node] for node in kept), parents, heights)

    def distances(self) -> np.ndarray:
        """Length of the way between every two leaves, as a share of the root's height; in the order of ``leaves``."""
        lengths, leaves = self.lengths, self.leaves
        under = np.zeros((len(self.labels), len(leaves)), bool)
        under[leaves, np.arange(len(leaves))] = True
        for node in range(len(self.labels) - 1, 0, -1):
            under[self.parents[node]] |= under[node]
        apart = under[:, :, None] != under[:, None, :]
        return np.tensordot(lengths, apart, axes=1)


def random_tree(n_types: int, rng: np.random.Generator) -> Tree:
    """A tree that splits at random (Yule): its branches are about as long as those of the cortical taxonomy."""
    parents, heights, depth, open_leaves = [-1], [0.0], 0.0, [0]
    while len(open_leaves) < n_types:
        depth += rng.exponential(1 / len(open_leaves)) if len(open_leaves) > 1 else 0.0
        splits = open_leaves.pop(int(rng.integers(len(open_leaves))))
        heights[splits] = -depth
        for _ in range(2):
            open_leaves.append(len(parents))
            parents.append(splits)
            heights.append(0.0)
    depth += rng.exponential(1 / n_types)
    is_leaf = np.isin(np.arange(len(parents)), open_leaves)
    names = iter(range(1, n_types + 1))
    width = len(str(n_types))
    labels = tuple(f"type_{next(names):0{width}d}" if leaf else f"n{i}" for i, leaf in enumerate(is_leaf))
    return Tree(labels, np.array(parents), np.where(is_leaf, 0.0, np.array(heights) + depth))
