"""Dendrograms from CSV files, in the layout of R's `dendextend` that the Allen Institute uses."""

from pathlib import Path

import numpy as np
import pandas as pd

from cplmix_ray.data.io.text_file import open_text
from cplmix_ray.simulation.tree import Tree
from cplmix_ray.utils.errors import InputError

_NEEDED = ("label", "parent", "height")


def read_tree(path: str) -> Tree:
    """Read a line for each leaf and node: its label, the label of its parent ("NA" or empty for the root), its height.

    Raises:
        InputError: the file is missing, no table, or the lines make no tree.
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
    except Exception as error:  # pandas raises many kinds, which mean the same to a user
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"Cannot read the tree {path} as a CSV file ({reason}).") from None
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise InputError(f"The tree {path} has no column {', '.join(missing)}; it needs label, parent and height.")
    return table


def _in_order(labels: list[str], above: list[str], heights: np.ndarray, root: str) -> Tree:
    """Parents before their children, as far as a way leads to them from the root."""
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
