"""The whole way from settings to cells."""

from collections.abc import Callable
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.config.yaml_file import yaml_text
from cplmix_ray.simulation.abundance import abundances
from cplmix_ray.simulation.counts import expected_counts, sample_counts
from cplmix_ray.simulation.expression import along_state, state_effects, type_programmes
from cplmix_ray.simulation.names import gene_names, subclass_names
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.simulation.tree import Tree, random_tree
from cplmix_ray.simulation.tree_file import read_tree
from cplmix_ray.version import __version__

CHUNK = 500
"""Cells that are drawn at once."""


@dataclass(frozen=True)
class Truth:
    """What is known of the cells before a molecule is counted.

    Attributes:
        log_rate_tg: log-expression of each type at state 0.
        effect_dtg: what each dimension of the state does to it.
        marker_g: genes that may differ between types.
        type_n, state_nd, library_n: type (in the order of the tree's leaves), state and expected counts of each cell.
    """

    tree: Tree
    genes: list[str]
    log_rate_tg: np.ndarray
    effect_dtg: np.ndarray
    marker_g: np.ndarray
    type_n: np.ndarray
    state_nd: np.ndarray
    library_n: np.ndarray

    def mean_of(self, rows: slice, shape: str) -> np.ndarray:
        """Expected counts (n, g) of some cells."""
        type_n, along_nd = self.type_n[rows], along_state(self.state_nd[rows], shape)
        log_rate_ng = self.log_rate_tg[type_n]
        for t in np.unique(type_n):
            log_rate_ng[type_n == t] += along_nd[type_n == t] @ self.effect_dtg[:, t]
        return expected_counts(log_rate_ng, self.library_n[rows])


def draw_truth(settings: Simulation) -> Truth:
    """Types, states and programmes; every purpose has a generator of its own.

    Raises:
        InputError: a file cannot be used, or the numbers do not fit together.
    """
    of_tree, of_genes, of_types, of_states, of_cells = (_generator(settings, purpose) for purpose in range(5))
    tree = random_tree(settings.types, of_tree) if settings.tree is None else read_tree(settings.tree)
    tree = tree.reduced(settings.types)
    genes = gene_names(settings.gene_names, settings.genes)
    base_g = settings.of_technology("expression_sd") * of_genes.standard_normal(len(genes))
    fold_tg, marker_g = type_programmes(
        tree, len(genes), settings.marker_share, settings.changes, settings.change_sd, of_types
    )
    effect_dtg = state_effects(
        base_g + fold_tg, settings.state_dims, settings.state_share, settings.state_strength, of_states
    )
    n_t = abundances(settings.cells, settings.types, settings.abundance_ratio, settings.abundance_bend)
    type_n = of_cells.permutation(np.repeat(of_cells.permutation(settings.types), n_t))
    state_nd = of_cells.standard_normal((settings.cells, settings.state_dims))
    spread = settings.of_technology("library_sd") * of_cells.standard_normal(settings.cells)
    library_n = settings.library_of(len(genes)) * np.exp(spread)
    return Truth(tree, genes, base_g + fold_tg, effect_dtg, marker_g, type_n, state_nd, library_n)


def simulate(settings: Simulation, advance: Callable[[int], None] = lambda cells: None) -> anndata.AnnData:
    """Cells with counts in X (CSR, int32) and the truth in obs, var, varm and uns.

    Args:
        advance: told how many cells there are, again and again.

    Raises:
        InputError: a file cannot be used, or the numbers do not fit together.
    """
    truth = draw_truth(settings)
    dispersion, dropout = settings.of_technology("dispersion"), settings.of_technology("dropout")
    parts = []
    for first in range(0, settings.cells, CHUNK):
        rows = slice(first, min(first + CHUNK, settings.cells))
        mean_ng = truth.mean_of(rows, settings.state_shape)
        counts_ng = sample_counts(mean_ng, dispersion, dropout, _generator(settings, 5, first))
        parts.append(sp.csr_matrix(counts_ng))
        advance(rows.stop)
    return _annotated(sp.vstack(parts, format="csr"), truth, settings)


def _generator(settings: Simulation, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, 0x51A, *purpose])


def _annotated(counts_ng: sp.csr_matrix, truth: Truth, settings: Simulation) -> anndata.AnnData:
    types = [truth.tree.labels[leaf] for leaf in truth.tree.leaves]
    subclasses = subclass_names(truth.tree, settings.subclasses or max(1, round(settings.types / 6)))
    width = len(str(settings.cells))
    obs = pd.DataFrame(index=[f"cell_{i:0{width}d}" for i in range(1, settings.cells + 1)])
    obs["cell_type"] = pd.Categorical.from_codes(truth.type_n, categories=types)
    obs["subclass"] = pd.Categorical(np.array(subclasses)[truth.type_n], categories=list(dict.fromkeys(subclasses)))
    names = ["state" if d == 0 else f"state_{d}" for d in range(settings.state_dims)]
    for name, state_n in zip(names, truth.state_nd.T, strict=True):
        obs[name] = state_n.astype(np.float32)
    obs["expected_counts"] = truth.library_n.astype(np.float32)
    var = pd.DataFrame({"marker": truth.marker_g}, index=truth.genes)
    var["state_types"] = (truth.effect_dtg != 0).any(axis=0).sum(axis=0).astype(np.int32)
    var["state_gene"] = var["state_types"] > 0
    adata = anndata.AnnData(counts_ng, obs=obs, var=var)
    adata.varm["log_rate"] = truth.log_rate_tg.T.astype(np.float32)
    for name, effect_tg in zip(names, truth.effect_dtg, strict=True):
        adata.varm[f"{name}_effect"] = effect_tg.T.astype(np.float32)
    adata.uns["simulation"] = {
        "version": __version__,
        "settings": yaml_text(settings.model_dump(mode="json")),
        "seed": settings.seed,
        "types": np.array(types, dtype=object),
        "nodes": np.array(truth.tree.labels, dtype=object),
        "parents": truth.tree.parents,
        "heights": truth.tree.heights,
    }
    return adata
