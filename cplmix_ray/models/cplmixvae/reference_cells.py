"""Training cells with which other cells are compared: calibrated confidence and novelty.

The confidence of a cell follows from the share of other analyses that give the nearest reference cells of its category
the same category (:mod:`cplmix_ray.data.neighbors.reanalyses`). Its novelty is the sum of :data:`NOVELTY_PARTS`, each
in units of its spread over the validation cells.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from sklearn.decomposition import PCA

from cplmix_ray.data.covariates import design_matrix, width_of
from cplmix_ray.data.neighbors.covariate_effects import effects_of
from cplmix_ray.data.neighbors.nearest import nearest_of
from cplmix_ray.data.neighbors.reanalyses import agreement_with_reanalyses
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import PreparedCells, TrainingSet
from cplmix_ray.models.cplmixvae.model import CoupledArms

NOVELTY_PARTS = ("arms", "reconstruction", "distance")
"""Disagreement of the arms, error of the reconstruction, and distance to the nearest reference cells; logarithms."""
NOVELTY_QUANTILE = 0.99
"""Share of the validation cells whose novelty is at most the threshold."""
SHARE_OF_ERRORS = 0.72
"""Share of the disagreements with other analyses that count as errors of the category, not of the analysis. Set on
three sets with known types (docs/metrics.md); 0.65 to 0.8 are nearly as good."""
_CELLS, _NEIGHBORS, _AXES = 3_000, 15, 20
"""Reference cells at most, those of them that a cell is compared with, and principal components."""
_FEWEST = 20
"""Validation cells from which spread and threshold are found; with fewer, these are found from the reference cells."""
_BLOCK, _CLIP, _SMALLEST = 2048, 10.0, 1e-3
_LOWEST, _HIGHEST = -3.0, 10.0
"""Bounds of a part of the novelty, so that none decides alone."""


@dataclass(frozen=True)
class ReferenceCells:
    """Reference cells of a trained model.

    Attributes:
        mean_g, spread_g: mean and standard deviation of the log-expression of each gene.
        axes_pg: principal components of the scaled genes.
        effect_vp: effects of the columns of the covariates on the components.
        points_rp: components of the reference cells, without these effects.
        category_r: their categories.
        agreement_r: share of the other analyses that agree with these.
        usual_j, spread_j: median of each part of the novelty, and distance from it to the quantile 0.84.
        threshold: the quantile :data:`NOVELTY_QUANTILE` of the novelty, shape (1,).
    """

    mean_g: np.ndarray
    spread_g: np.ndarray
    axes_pg: np.ndarray
    effect_vp: np.ndarray
    points_rp: np.ndarray
    category_r: np.ndarray
    agreement_r: np.ndarray
    usual_j: np.ndarray
    spread_j: np.ndarray
    threshold: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """All attributes by name."""
        return {each.name: np.ascontiguousarray(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], preparation: Preparation) -> "ReferenceCells":
        """The inverse of :meth:`arrays`.

        Raises:
            ValueError: arrays are missing, or do not fit the model or each other.
        """
        if set(arrays) != {each.name for each in fields(cls)}:
            raise ValueError(f"the reference cells have {', '.join(sorted(arrays))}")
        made = cls(**arrays)
        n_g, n_v, n_j = len(preparation.var_names), width_of(preparation.covariates), len(NOVELTY_PARTS)
        n_r, n_p = made.points_rp.shape if made.points_rp.ndim == 2 else (0, 0)
        shapes = [(n_g,), (n_g,), (n_p, n_g), (n_v, n_p), (n_r, n_p), (n_r,), (n_r,), (n_j,), (n_j,), (1,)]
        found = [getattr(made, each.name) for each in fields(cls)]
        if n_r == 0 or [each.shape for each in found] != shapes or not all(np.isfinite(each).all() for each in found):
            raise ValueError("the reference cells do not fit the genes of the model")
        return made

    def confidence(self, points_np: np.ndarray, category_n: np.ndarray) -> np.ndarray:
        """Calibrated probability that cells belong to their categories, (n,).

        It is 1 - 0.72 (1 - agreement), with the mean agreement of the nearest reference cells of the category, or of
        any category that has none.
        """
        agreement_n = np.full(len(points_np), self.agreement_r.mean())
        for category in np.unique(category_n):
            cells, own = np.flatnonzero(category_n == category), np.flatnonzero(self.category_r == category)
            if len(own):
                near_mj = nearest_of(points_np[cells], self.points_rp[own], _NEIGHBORS)
                agreement_n[cells] = self.agreement_r[own][near_mj].mean(axis=1)
        return 1.0 - SHARE_OF_ERRORS * (1.0 - agreement_n)

    def novelty(self, parts_nj: np.ndarray) -> np.ndarray:
        """Novelty of cells in units of the threshold, (n,): cells above 1 are unknown."""
        return ((parts_nj - self.usual_j) / self.spread_j).clip(_LOWEST, _HIGHEST).sum(axis=1) / self.threshold[0]


def fit_reference(
    model: CoupledArms, data: TrainingSet, outputs: Mapping[str, np.ndarray], n_categories: int, seed: int
) -> ReferenceCells | None:
    """Choose reference cells from the training cells, and find what is usual for cells like these.

    Args:
        outputs: those of all cells.

    Returns:
        None for images, and where there are too few cells or genes to compare.
    """
    n_cells, n_genes = len(data.train_idx), data.matrix.shape[1]
    if data.preparation.kind == "images" or min(n_cells, n_genes) < 3:
        return None
    chosen = np.random.default_rng([seed, 0x8EF]).permutation(n_cells)[:_CELLS]
    reference = data.train_idx[np.sort(chosen)]
    x_ng, design_nv = _log_expression(data, reference), _design(data, reference)
    category_n = outputs["probs_nk"].argmax(axis=1)
    mean_g, spread_g = x_ng.mean(axis=0), x_ng.std(axis=0) + _SMALLEST
    scaled_ng = _scaled(x_ng, mean_g, spread_g)
    axes_pg = PCA(min(_AXES, min(x_ng.shape) - 1), random_state=seed).fit(scaled_ng).components_
    points_rp = scaled_ng @ axes_pg.T
    effect_vp = effects_of(points_rp, design_nv)
    unknown_j = np.zeros(len(NOVELTY_PARTS))
    made = ReferenceCells(
        mean_g,
        spread_g,
        axes_pg.astype(np.float32),
        effect_vp,
        points_rp - design_nv @ effect_vp,
        category_n[reference],
        agreement_with_reanalyses(x_ng, design_nv, category_n[reference], n_categories, seed),
        unknown_j,
        unknown_j + 1.0,
        np.ones(1),
    )
    usual = data.val_idx if len(data.val_idx) >= _FEWEST else reference
    parts_nj = np.concatenate([parts for _, parts in _compared(made, model, data, outputs, usual, True)])
    usual_j, high_j = np.median(parts_nj, axis=0), np.quantile(parts_nj, 0.84, axis=0)
    made = replace(made, usual_j=usual_j, spread_j=np.maximum(high_j - usual_j, _SMALLEST))
    threshold = np.quantile(made.novelty(parts_nj), NOVELTY_QUANTILE)
    return replace(made, threshold=np.maximum(threshold, _SMALLEST)[None])


def compare_with_reference(
    reference: ReferenceCells,
    model: CoupledArms,
    cells: PreparedCells,
    outputs: Mapping[str, np.ndarray],
    novelty: bool,
) -> dict[str, np.ndarray]:
    """``confidence_n`` and, if asked for, ``novelty_n`` of cells, float32.

    Args:
        outputs: those of the same cells.
        novelty: the cells are none of the reference cells, which would be found too near to these.
    """
    every, category_n = np.arange(cells.n_cells), outputs["probs_nk"].argmax(axis=1)
    confidence, unlike = [np.zeros(0)], [np.zeros(0)]
    for points_np, parts_nj in _compared(reference, model, cells, outputs, every, novelty):
        at = sum(map(len, confidence))
        confidence.append(reference.confidence(points_np, category_n[at : at + len(points_np)]))
        if novelty:
            unlike.append(reference.novelty(parts_nj))
    found = {"confidence_n": np.concatenate(confidence).astype(np.float32)}
    return found | ({"novelty_n": np.concatenate(unlike).astype(np.float32)} if novelty else {})


def _compared(
    reference: ReferenceCells,
    model: CoupledArms,
    cells: PreparedCells,
    outputs: Mapping[str, np.ndarray],
    idx_n: np.ndarray,
    novelty: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Components of cells (n, p), and parts of their novelty (n, 3) or, where that is not wanted, (n, 0); in blocks."""
    for at in range(0, len(idx_n), _BLOCK):
        block = idx_n[at : at + _BLOCK]
        x_ng, design_nv = _log_expression(cells, block), _design(cells, block)
        scaled_ng = _scaled(x_ng, reference.mean_g, reference.spread_g)
        points_np = scaled_ng @ reference.axes_pg.T - design_nv @ reference.effect_vp
        parts: list[np.ndarray] = []
        if novelty:
            # The probability that two arms, or one arm twice, name the same category.
            same_n = np.square(np.exp(outputs["log_q_ank"][:, block]).mean(axis=0)).sum(axis=1)
            error_ng = scaled_ng - _scaled(
                _reconstructed(model, outputs, block, design_nv), reference.mean_g, reference.spread_g
            )
            near_nj = nearest_of(points_np, reference.points_rp, _NEIGHBORS)
            offset_njp = points_np[:, None] - reference.points_rp[near_nj]
            distance_n = np.sqrt(np.square(offset_njp).sum(axis=2)).mean(axis=1)
            parts = [(1.0 - same_n).clip(0.0), np.square(error_ng).mean(axis=1), distance_n]
        yield points_np, np.log(_SMALLEST + np.stack(parts, axis=1)) if novelty else np.zeros((len(block), 0))


def _log_expression(cells: PreparedCells, idx_n: np.ndarray) -> np.ndarray:
    """Log-expression of some cells; of counts, after scaling to the library size of the preparation."""
    x_ng = cells.matrix.dense_rows(idx_n).astype(np.float32)
    if cells.preparation.kind != "counts":
        return x_ng
    library_n1 = np.maximum(x_ng.sum(axis=1, keepdims=True), 1.0)
    return np.log1p(x_ng * (np.float32(cells.preparation.library) / library_n1))


def _reconstructed(
    model: CoupledArms, outputs: Mapping[str, np.ndarray], idx_n: np.ndarray, design_nv: np.ndarray
) -> np.ndarray:
    """Log-expression decoded from the consensus and the state of some cells, the mean over arms."""
    latent = {"c": outputs["probs_nk"][idx_n], "s": outputs["state_nd"][idx_n]}
    latent |= {"v": design_nv} if design_nv.shape[1] else {}
    x_ng = model.decode(**{name: torch.from_numpy(each) for name, each in latent.items()}).mean(dim=0).cpu().numpy()
    return np.log1p(x_ng) if model.preparation.kind == "counts" else x_ng


def _design(cells: PreparedCells, idx_n: np.ndarray) -> np.ndarray:
    """Columns of the covariates of some cells, (n, v)."""
    covariates = cells.preparation.covariates
    return design_matrix(covariates, cells.covariates, idx_n) if covariates else np.zeros((len(idx_n), 0), np.float32)


def _scaled(x_ng: np.ndarray, mean_g: np.ndarray, spread_g: np.ndarray) -> np.ndarray:
    return ((x_ng - mean_g) / spread_g).clip(-_CLIP, _CLIP)
