"""Simulation of cells from settings."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cplmix_ray.config.yaml_file import yaml_text
from cplmix_ray.data.preprocessing.genes import read_gene_list
from cplmix_ray.simulation.batches import Batches, draw_batches
from cplmix_ray.simulation.expression import (
    abundances,
    along_state,
    expected_counts,
    sample_counts,
    state_effects,
    type_programmes,
)
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.simulation.tree import Tree, random_tree, read_tree
from cplmix_ray.utils.errors import InputError
from cplmix_ray.version import __version__

CHUNK = 500
"""Cells whose counts are drawn at once."""
DEFAULT_GENES = 5032


@dataclass(frozen=True)
class Truth:
    """Ground truth of the cells, before counts are drawn.

    Attributes:
        log_rate_tg: log-expression of each type at state 0.
        effect_dtg: effect of each dimension of the state on it.
        marker_g: genes that may differ between types.
        type_n, state_nd, library_n: type (in the order of the tree's leaves), state and expected counts of each cell.
        batches: batch of each cell and the effects of the batches; None if there is one batch.
    """

    tree: Tree
    genes: list[str]
    log_rate_tg: np.ndarray
    effect_dtg: np.ndarray
    marker_g: np.ndarray
    type_n: np.ndarray
    state_nd: np.ndarray
    library_n: np.ndarray
    batches: Batches | None

    def mean_of(self, rows: slice, shape: str) -> np.ndarray:
        """Expected counts (n, g) of some cells."""
        type_n, along_nd = self.type_n[rows], along_state(self.state_nd[rows], shape)
        log_rate_ng = self.log_rate_tg[type_n]
        for t in np.unique(type_n):
            log_rate_ng[type_n == t] += along_nd[type_n == t] @ self.effect_dtg[:, t]
        if self.batches is not None:
            log_rate_ng += self.batches.effect_btg[self.batches.batch_n[rows], type_n]
        return expected_counts(log_rate_ng, self.library_n[rows])


def draw_truth(settings: Simulation) -> Truth:
    """Draw types, states and expression; every purpose has its own generator.

    Raises:
        InputError: a file cannot be used, or settings contradict each other.
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
    batches = None
    if settings.batches > 1:
        batches = draw_batches(settings, tree, type_n, len(genes), lambda part: _generator(settings, 6, part))
        library_n *= np.exp(batches.log_depth_b[batches.batch_n])
    return Truth(tree, genes, base_g + fold_tg, effect_dtg, marker_g, type_n, state_nd, library_n, batches)


def simulate(settings: Simulation, advance: Callable[[int], None] = lambda cells: None) -> anndata.AnnData:
    """Cells with counts in X (CSR, int32) and the truth in obs, var, varm and uns.

    Args:
        advance: called with the number of cells simulated so far.

    Raises:
        InputError: a file cannot be used, or settings contradict each other.
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
    if truth.batches is not None:
        obs["batch"] = pd.Categorical.from_codes(truth.batches.batch_n, categories=truth.batches.names)
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
    if truth.batches is not None:
        _annotate_batches(adata, truth.batches)
    return adata


def _annotate_batches(adata: anndata.AnnData, batches: Batches) -> None:
    """Add the effects of the batches: common to all types (g, b), and for each batch in each type (g, T)."""
    adata.varm["batch_effect"] = batches.shared_bg.T.astype(np.float32)
    for name, effect_tg in zip(batches.names, batches.effect_btg, strict=True):
        adata.varm[f"{name}_effect"] = effect_tg.T.astype(np.float32)
    adata.uns["simulation"] |= {
        "batches": np.array(batches.names, dtype=object),
        "batch_lacks_type": batches.lacks_bt,
        "batch_log_depth": batches.log_depth_b,
    }


def gene_names(path: str | None, n_genes: int | None) -> list[str]:
    """The first genes of a file with one name on each line, or generated names.

    Raises:
        InputError: the file is missing, damaged or too short.
    """
    if path is None:
        n_genes = n_genes or DEFAULT_GENES
        return [f"gene_{i:0{len(str(n_genes))}d}" for i in range(1, n_genes + 1)]
    names = read_gene_list(path, "--gene-names")[:n_genes]
    if len(names) < (n_genes or 10):
        raise InputError(f"{path} names {len(names)} genes, fewer than --genes {n_genes or 10}.")
    return names


def subclass_names(tree: Tree, n: int) -> list[str]:
    """Subclass of each leaf: the tree is cut into about n branches, named by the words that their leaves share."""
    name_of: dict[int, str] = {}
    taken: set[str] = set()
    for node in tree.cut(n):
        leaves = tree.below(node)
        words = [tree.labels[leaf].split() for leaf in leaves]
        shared = " ".join(w[0] for w in takewhile(lambda w: len(set(w)) == 1, zip(*words, strict=False)))
        name = shared if shared and shared not in taken else f"{shared} {tree.labels[node]}".strip()
        taken.add(name)
        name_of.update(dict.fromkeys(leaves, name))
    return [name_of[leaf] for leaf in tree.leaves]
