"""Abundances of the types, expression of the genes in each type and along the state, and counts."""

import numpy as np

from cplmix_ray.simulation.tree import Tree
from cplmix_ray.utils.errors import InputError

SHORTEST_BRANCH = 0.03
"""Shortest effective length of a branch, as a share of the root's height, so that sister types differ in some genes."""


def abundances(n_cells: int, n_types: int, ratio: float, bend: float) -> np.ndarray:
    """Cells of each type, most abundant first; they add up to ``n_cells``.

    Type i of T has cells in proportion to ratio^(-t^bend), t = i/(T-1): the first has ``ratio`` times as many as the
    last. Shares are rounded by largest remainder.

    Raises:
        InputError: the rarest type would have no cell.
    """
    share = ratio ** -(np.linspace(0, 1, n_types) ** bend)
    share *= n_cells / share.sum()
    cells = np.floor(share).astype(int)
    cells[np.argsort(cells - share, kind="stable")[: n_cells - cells.sum()]] += 1
    if cells.min() < 1:
        raise InputError(
            f"{n_cells} cells are too few for {n_types} types with an abundance ratio of {ratio:.4g}: the rarest would "
            f"have none; give more --cells or a smaller --abundance-ratio."
        )
    return cells


def type_programmes(
    tree: Tree, n_genes: int, marker_share: float, changes: float, change_sd: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Log fold change (T, g) of each gene in each type against the root, and which genes may change (g).

    A gene's log-expression changes along the branches at random times (a compound Poisson process): ``changes`` times
    between the root and a leaf, each time by a Gaussian step. Types share the changes above their last common
    ancestor, so the expected squared distance between two types is proportional to the path length between them.
    """
    marker_g = rng.permutation(n_genes) < max(1, round(marker_share * n_genes))
    lengths_b = np.where(tree.parents < 0, 0.0, np.maximum(tree.lengths, SHORTEST_BRANCH))
    steps_bg = rng.poisson(changes * lengths_b[:, None] * marker_g)
    return along_branches(tree, rng.standard_normal(steps_bg.shape) * change_sd * np.sqrt(steps_bg)), marker_g


def along_branches(tree: Tree, change_bg: np.ndarray) -> np.ndarray:
    """Sum (T, g) of the changes on the branches from the root to each leaf, given those on every branch (b, g)."""
    sum_bg = change_bg.copy()
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            sum_bg[node] += sum_bg[parent]
    return sum_bg[tree.leaves]


def state_effects(
    log_rate_tg: np.ndarray, n_dims: int, share: float, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Effect (d, T, g) of each dimension of the state on the log-expression of each type's own genes, 0 for the others.

    The genes are drawn separately for every type, among the half that it expresses most, where effects are visible.
    """
    n_types, n_genes = log_rate_tg.shape
    n_chosen = max(1, min(round(share * n_genes), n_genes // max(n_dims, 1)))
    effect_dtg = np.zeros((n_dims, n_types, n_genes))
    for t, log_rate_g in enumerate(log_rate_tg):
        expressed = np.argsort(-log_rate_g, kind="stable")[: max(n_dims * n_chosen, n_genes // 2)]
        chosen = rng.permutation(expressed)[: n_dims * n_chosen].reshape(n_dims, n_chosen)
        for d, genes in enumerate(chosen):
            effect_dtg[d, t, genes] = strength * rng.standard_normal(len(genes))
    return effect_dtg


def along_state(state_nd: np.ndarray, shape: str) -> np.ndarray:
    """Factor of the effects: the state itself, or 1.5 tanh(s), which has about the same standard deviation."""
    return state_nd if shape == "linear" else 1.5 * np.tanh(state_nd)


def expected_counts(log_rate_ng: np.ndarray, library_n: np.ndarray) -> np.ndarray:
    """Mean counts (n, g): each cell's library size times the genes' shares of its expression."""
    rate_ng = np.exp(log_rate_ng - log_rate_ng.max(axis=1, keepdims=True))
    rate_ng *= (library_n / rate_ng.sum(axis=1))[:, None]
    return rate_ng


def sample_counts(mean_ng: np.ndarray, dispersion: float, dropout: float, rng: np.random.Generator) -> np.ndarray:
    """Negative binomial counts with dropout.

    The variance is mu + phi mu^2 (a Poisson with gamma rate). A value is set to zero with probability m / (m + mu), one
    half at mu = m (``dropout``).
    """
    shape = 1.0 / dispersion
    rate_ng = rng.standard_gamma(shape, mean_ng.shape) * (mean_ng / shape)
    counts_ng = rng.poisson(rate_ng).astype(np.int32)
    if dropout > 0:
        counts_ng *= rng.random(mean_ng.shape, dtype=np.float32) * (mean_ng + dropout) < mean_ng
    return counts_ng
