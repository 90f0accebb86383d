"""What the genes do in each type and along the state."""

import numpy as np

from cplmix_ray.simulation.tree import Tree

SHORTEST_BRANCH = 0.03
"""A branch counts as at least this share of the root's height: taxonomies keep types apart by a number of genes."""


def type_programmes(
    tree: Tree, n_genes: int, marker_share: float, changes: float, change_sd: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Log fold change (T, g) of each gene in each type against the root, and which genes may change (g).

    A gene's log-expression changes along the branches at random times (a compound Poisson process): ``changes`` times
    on the way from the root to a leaf, each time by a Gaussian step. Types share what changed above the node at which
    they part, so the expected squared distance between two types is proportional to the length of the way between them.
    """
    marker_g = rng.permutation(n_genes) < max(1, round(marker_share * n_genes))
    lengths_b = np.where(tree.parents < 0, 0.0, np.maximum(tree.lengths, SHORTEST_BRANCH))
    steps_bg = rng.poisson(changes * lengths_b[:, None] * marker_g)
    fold_bg = rng.standard_normal(steps_bg.shape) * change_sd * np.sqrt(steps_bg)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            fold_bg[node] += fold_bg[parent]
    return fold_bg[tree.leaves], marker_g


def state_effects(
    log_rate_tg: np.ndarray, n_dims: int, share: float, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Effect (d, T, g) of each dimension of the state on the log-expression of each type's own genes, 0 for the others.

    The genes are drawn for every type anew, among the half that it expresses most: elsewhere nobody would see them.
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
    """By what the effects are multiplied: the state itself, or 1.5 tanh(s), of about its spread."""
    return state_nd if shape == "linear" else 1.5 * np.tanh(state_nd)
