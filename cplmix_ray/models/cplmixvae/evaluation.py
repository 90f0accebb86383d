"""Scores of trained coupled mixture VAEs, and their results in AnnData objects."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cplmix_ray.data.covariates import batches_of
from cplmix_ray.metrics.batch_mixing import batch_scores
from cplmix_ray.metrics.calibration import calibration_scores
from cplmix_ray.metrics.category_scores import score
from cplmix_ray.metrics.disentanglement import disentanglement
from cplmix_ray.metrics.state_scores import state_scores

if TYPE_CHECKING:
    import anndata
    import pandas as pd

    from cplmix_ray.data.dataset import Dataset
    from cplmix_ray.data.source import Source

_CERTAIN = 0.5
"""Confidence from which on a cell is not marked as uncertain, if the arms agree."""


def all_scores(outputs: Mapping[str, np.ndarray], data: "Dataset", seed: int) -> dict[str, float]:
    """Scores over all cells, and over the validation cells under names that begin with ``val_``."""
    scores = scores_of(outputs, data, slice(None))  # no copy of the outputs of millions of cells
    scores["reconstruction"] = float(np.mean(outputs["reconstruction_a"].tolist()))
    if data.factors is not None:
        category_n = outputs["probs_nk"].argmax(axis=1)
        scores |= disentanglement(outputs["state_nd"], category_n, data.factors.classes_nf, seed)
    if data.batch_n is not None:
        scores |= batch_scores(outputs["probs_nk"], outputs["state_nd"], data.batch_n, seed)
    held_out = scores_of(outputs, data, data.training.val_idx)
    return {**scores, **{f"val_{name}": value for name, value in held_out.items()}}


def scores_of(outputs: Mapping[str, np.ndarray], data: "Dataset", idx_n: np.ndarray | slice) -> dict[str, float]:
    """Scores of the consensus over some of the cells."""
    labels_n = None if data.labels_n is None else data.labels_n[idx_n]
    truth_nm = None if data.truth_nm is None else data.truth_nm[idx_n]
    probs_nk, state_nd = outputs["probs_nk"][idx_n], outputs["state_nd"][idx_n]
    confidence_n = outputs["confidence_n"][idx_n] if "confidence_n" in outputs else None
    scores = _category_scores(outputs["log_q_ank"][:, idx_n], probs_nk, labels_n, confidence_n)[0]
    return {**scores, **state_scores(state_nd, truth_nm, labels_n, probs_nk.argmax(axis=1))}


def source_scores(
    outputs: Mapping[str, np.ndarray], source: "Source", batch_key: str | None, seed: int
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores of the consensus and of each arm for cells that were read."""
    probs_nk, state_nd, losses = outputs["probs_nk"], outputs["state_nd"], outputs["reconstruction_a"].tolist()
    category_n = probs_nk.argmax(axis=1)
    consensus, arms = _category_scores(outputs["log_q_ank"], probs_nk, source.labels_n, outputs.get("confidence_n"))
    consensus.update(state_scores(state_nd, source.truth_nm, source.labels_n, category_n))
    consensus["reconstruction"] = sum(losses) / len(losses)
    if source.factors is not None:
        consensus |= disentanglement(state_nd, category_n, source.factors.classes_nf, seed)
    batch_n = batches_of(source.adata.obs, batch_key)
    if batch_n is not None:
        consensus |= batch_scores(probs_nk, state_nd, batch_n, seed)
    for scores, loss in zip(arms, losses, strict=True):
        scores["reconstruction"] = loss
    return consensus, arms


def _category_scores(
    log_q_ank: np.ndarray, probs_nk: np.ndarray, labels_n: np.ndarray | None, confidence_n: np.ndarray | None
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Scores of the consensus, with its calibration and the mean accuracy of the arms, and of each arm."""
    consensus, arms = score(log_q_ank, probs_nk, labels_n)
    if labels_n is not None:
        consensus |= calibration_scores(labels_n, probs_nk, confidence_n)
    if "acc" in consensus:
        consensus["acc_of_arms"] = float(np.mean([scores["acc"] for scores in arms]))
    if len(probs_nk):
        consensus["uncertain"] = float(_uncertain(log_q_ank, probs_nk, confidence_n).mean())
    return consensus, arms


def uncertain_cells(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Cells of which two arms name different categories, or whose confidence is below 0.5, (n,)."""
    return _uncertain(outputs["log_q_ank"], outputs["probs_nk"], outputs.get("confidence_n"))


def cell_counts(outputs: Mapping[str, np.ndarray]) -> list[str]:
    """Sentences that say how many cells are uncertain and, of new cells, how many have a novelty above 1."""
    n = len(outputs["probs_nk"])
    lines = [
        f"{uncertain_cells(outputs).sum()} of {n} cells are uncertain: two arms name different categories, or the "
        f"confidence is below {_CERTAIN:g}."
    ]
    if "confidence_n" not in outputs:
        lines.append("The confidence is the largest probability, not calibrated: this model has no reference cells.")
    if "novelty_n" in outputs:
        lines.append(f"{(outputs['novelty_n'] > 1).sum()} of {n} cells have a novelty above the threshold of 1.")
    return lines


def _uncertain(log_q_ank: np.ndarray, probs_nk: np.ndarray, confidence_n: np.ndarray | None) -> np.ndarray:
    category_an = log_q_ank.argmax(axis=2)
    low_n = (probs_nk.max(axis=1) if confidence_n is None else confidence_n) < _CERTAIN
    return (category_an != category_an[0]).any(axis=0) | low_n


def annotate_categories(
    adata: "anndata.AnnData", outputs: Mapping[str, np.ndarray], n_categories: int, key: str
) -> None:
    """Add category, confidence and novelty to obs, state and probabilities to obsm, in place."""
    import pandas as pd

    probs_nk = outputs["probs_nk"]
    adata.obs[f"{key}_category"] = pd.Categorical.from_codes(
        probs_nk.argmax(axis=1), categories=[str(k) for k in range(n_categories)]
    )
    largest_n = probs_nk.max(axis=1).astype(np.float32, copy=False)
    adata.obs[f"{key}_confidence"] = outputs.get("confidence_n", largest_n)
    adata.obs[f"{key}_max_prob"] = largest_n
    adata.obs[f"{key}_uncertain"] = uncertain_cells(outputs)
    if "novelty_n" in outputs:
        adata.obs[f"{key}_novelty"] = outputs["novelty_n"]
    adata.obsm[f"X_{key}"] = outputs["state_nd"].astype(np.float32, copy=False)
    adata.obsm[f"{key}_probs"] = probs_nk.astype(np.float32, copy=False)


def loadings_table(loadings_kdg: np.ndarray, genes: Sequence[str]) -> "pd.DataFrame":
    """Loadings with a row for each gene and a column "category:dimension" for each category and state dimension."""
    import pandas as pd

    n_k, n_d, n_genes = loadings_kdg.shape
    columns = [f"{k}:{d}" for k in range(n_k) for d in range(n_d)]
    return pd.DataFrame(loadings_kdg.reshape(-1, n_genes).T, index=pd.Index(genes), columns=columns)
