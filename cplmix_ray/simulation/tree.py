"""Dendrograms of cell types: random or from CSV files, and cutting them.

Files are in the layout of R's `dendextend` that the Allen Institute uses.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cplmix_ray.data.io.text_file import open_text
from cplmix_ray.utils.errors import InputError

_NEEDED = ("label", "parent", "height")


@dataclass(frozen=True)
class Tree:
    """A rooted tree, parents before their children.

    Attributes:
        labels: names of the nodes.
        parents: index of each node's parent; -1 for the root, which comes first.
        heights: height of each node above the leaves; a child is never higher than its parent.
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
        """The n nodes that remain after replacing the highest node by its children, again and again.

        There may be a few more than n if nodes have more than two children.
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
        """A tree of n leaves: the branch with that many, else the whole tree with its closest leaves merged.

        Raises:
            InputError: there are fewer leaves, or merging leads to no tree of that size.
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


def random_tree(n_types: int, rng: np.random.Generator) -> Tree:
    """A random tree (Yule process); its branch lengths are similar to those of the cortical taxonomy."""
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


def read_tree(path: str) -> Tree:
    """Read a tree from a table with columns label, parent (a label; "NA" or empty for the root) and height.

    Raises:
        InputError: the file is missing or no table, or the lines do not form a tree.
    """
    table = _read(path)
    labels, above = table["label"].to_list(), table["parent"].to_list()
    twice = table["label"][table["label"].duplicated()]
    if len(twice):
        raise InputError(f"The tree {path} names '{twice.iloc[0]}' more than once; labels must differ.")
    heights = pd.to_numeric(table["height"], errors="coerce").to_numpy(float)
    if not np.isfinite(heights).all():
        raise InputError(f"The height of '{labels[int(np.argmin(np.isfinite(heights)))]}' in {path} is no number.")
    roots = [label for label, parent in zip(labels, above, strict=True) if parent in ("", "NA")]
    if len(roots) != 1:
        raise InputError(f"The tree {path} has {len(roots)} lines without a parent; it must have one root.")
    known = set(labels)
    for label, parent in zip(labels, above, strict=True):
        if parent not in known and label != roots[0]:
            raise InputError(f"The parent '{parent}' of '{label}' in {path} has no line of its own.")
    tree = _in_order(labels, above, heights, roots[0])
    if len(tree.labels) < len(labels):
        lost = next(label for label in labels if label not in set(tree.labels))
        raise InputError(f"The tree {path} goes round in a circle: no way leads from '{lost}' to the root.")
    rising = np.flatnonzero(tree.lengths < -1e-9)
    if len(rising) or tree.heights[0] <= 0:
        raise InputError(
            f"The height of '{tree.labels[rising[0] if len(rising) else 0]}' in {path} does not fit: heights must "
            f"fall from the root to the leaves."
        )
    if len(tree.leaves) < 2:
        raise InputError(f"The tree {path} has fewer than two leaves.")
    return tree


def _read(path: str) -> pd.DataFrame:
    if not Path(path).is_file():
        raise InputError(f"There is no file {path}; check the path given to --tree.")
    try:
        with open_text(path, whole=True) as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except InputError:
        raise
    except Exception as error:  # pandas raises many types
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"Cannot read the tree {path} as a CSV file ({reason}).") from None
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise InputError(f"The tree {path} has no column {', '.join(missing)}; it needs label, parent and height.")
    return table


def _in_order(labels: list[str], above: list[str], heights: np.ndarray, root: str) -> Tree:
    """The nodes reachable from the root, parents before their children."""
    below: dict[str, list[int]] = {}
    for i, parent in enumerate(above):
        below.setdefault(parent, []).append(i)
    order, stack = [], [labels.index(root)]
    while stack:
        node = stack.pop()
        order.append(node)
        stack += reversed(below.get(labels[node], []))
    at = {labels[node]: i for i, node in enumerate(order)}
    parents = np.array([-1 if labels[node] == root else at[above[node]] for node in order])
    return Tree(tuple(labels[node] for node in order), parents, heights[order])
