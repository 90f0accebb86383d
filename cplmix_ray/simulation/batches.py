"""Batches: types that they lack, their cells, and their effects on expression and depth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cplmix_ray.simulation.expression import along_branches
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.simulation.tree import Tree
from cplmix_ray.utils.errors import InputError

_TRIES = 20
"""Draws of the types that a batch lacks until they differ from those of all earlier batches."""


@dataclass(frozen=True)
class Batches:
    """Batch of each cell, and the effects of the batches.

    Attributes:
        lacks_bt: types that each batch lacks.
        batch_n: batch of each cell.
        shared_bg: effect of each batch on the log-expression of each gene that is the same for all types.
        effect_btg: effect of each batch on the log-expression of each gene in each type.
        log_depth_b: effect of each batch on the logarithm of the counts per cell.
    """

    lacks_bt: np.ndarray
    batch_n: np.ndarray
    shared_bg: np.ndarray
    effect_btg: np.ndarray
    log_depth_b: np.ndarray

    @property
    def names(self) -> list[str]:
        return [f"batch_{b}" for b in range(1, len(self.lacks_bt) + 1)]


def draw_batches(
    settings: Simulation, tree: Tree, type_n: np.ndarray, n_genes: int, generator: Callable[[int], np.random.Generator]
) -> Batches:
    """Draw batches; which cells are in which batch depends neither on the effects nor on the number of genes.

    The part of an effect that differs between types is a Brownian motion along the branches of the tree. If it were
    independent in every type, similar types would be easier to tell apart inside a batch than without batch effects.

    Args:
        tree: tree of the types, with the order of types as in ``type_n``.
        generator: random generator for cells (0), effects (1) and depth (2).

    Raises:
        InputError: a batch would have no cell.
    """
    of_cells, of_effects, of_depth = (generator(purpose) for purpose in range(3))
    lacks_bt = missing_types(settings.batches, settings.types, settings.batch_missing, of_cells)
    batch_n = assign_batches(type_n, lacks_bt, of_cells)
    if len(np.unique(batch_n)) < settings.batches:
        raise InputError(
            f"{settings.cells} cells are too few for {settings.batches} batches: one would have none; give more "
            f"--cells or fewer --batches."
        )
    strength, by_type = settings.batch_strength, settings.batch_by_type
    shared_bg = strength * np.sqrt(1 - by_type) * of_effects.standard_normal((settings.batches, n_genes))
    change_sd = strength * np.sqrt(by_type * tree.lengths)[:, None]
    effect_btg = np.stack(
        [
            shared_g + along_branches(tree, change_sd * of_effects.standard_normal((len(change_sd), n_genes)))
            for shared_g in shared_bg
        ]
    )
    depth_sd = settings.batch_depth_sd if strength > 0 else 0.0
    return Batches(lacks_bt, batch_n, shared_bg, effect_btg, depth_sd * of_depth.standard_normal(settings.batches))


def missing_types(n_batches: int, n_types: int, n_missing: int, rng: np.random.Generator) -> np.ndarray:
    """Types (b, T) that each batch lacks, as different sets as possible.

    Each batch lacks types that the fewest earlier batches lack, so the numbers of batches that lack two types differ by
    at most one.
    """
    lacks_bt = np.zeros((n_batches, n_types), bool)
    for b in range(n_batches if n_missing else 0):
        times_t = lacks_bt[:b].sum(axis=0)
        for _ in range(_TRIES):
            order = rng.permutation(n_types)
            chosen = order[np.argsort(times_t[order], kind="stable")[:n_missing]]
            lacks_bt[b] = np.isin(np.arange(n_types), chosen)
            if not (lacks_bt[:b] == lacks_bt[b]).all(axis=1).any():
                break
    return lacks_bt


def assign_batches(type_n: np.ndarray, lacks_bt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Batch of each cell: the cells of a type are divided evenly among the batches that have it."""
    batch_n = np.zeros(len(type_n), int)
    for t, lacks_b in enumerate(lacks_bt.T):
        cells = rng.permutation(np.flatnonzero(type_n == t))
        batch_n[cells] = np.resize(rng.permutation(np.flatnonzero(~lacks_b)), len(cells))
    return batch_n
