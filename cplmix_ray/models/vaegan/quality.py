"""How good the copies are: whether they keep the type of their cell, and how much they differ from it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.data.source import Values
from cplmix_ray.data.training_set import dense_rows
from cplmix_ray.models.vaegan.classifier import Judge, train_judge
from cplmix_ray.models.vaegan.networks import Augmenter
from cplmix_ray.models.vaegan.objective import distance
from cplmix_ray.models.vaegan.randomness import COPIES, generator_for
from cplmix_ray.models.vaegan.training import Spread

_PAIRS = 4096
"""Random pairs of cells from which distances within and between types are estimated."""


@dataclass(frozen=True)
class Cells:
    """The cells to measure on.

    Attributes:
        train_idx, val_idx: rows; without validation cells, the training cells are measured.
        labels_n: known types of all rows, "" where unknown; None without labels.
    """

    values_ng: Values
    train_idx: np.ndarray
    val_idx: np.ndarray
    labels_n: np.ndarray | None


def measure(augmenter: Augmenter, cells: Cells, spread: Spread, seed: int) -> dict[str, float]:
    """Figures of the copies, by name.

    Returns:
        copy_distance, noise_free_distance: mean ||x - copy|| / ||x||, of the noisy and of the noise-free copy.
        copy_diversity: mean distance between two noisy copies of one cell; distance_any, distance_within and
            distance_between are those of two cells, of one type and of two; diversity_within and others are its ratios.
        type_kept, type_true: share of noisy copies to which a classifier, trained on the training cells, gives the
            type it gives the cell itself, and the known type; noise_free_kept likewise; classifier_accuracy on the
            cells themselves. Only where types are known.
    """
    augmenter = augmenter.to("cpu").eval()
    rows = cells.val_idx if len(cells.val_idx) else cells.train_idx
    generator = generator_for(seed, COPIES)
    judge, types = _judge(cells, spread, seed)
    sums: dict[str, float] = {}
    for at in range(0, len(rows), 512):
        idx = rows[at : at + 512]
        for name, total in _batch(augmenter, cells, idx, judge, types, generator).items():
            sums[name] = sums.get(name, 0.0) + total
    n, n_known = sums.pop("n"), sums.pop("known", 0.0)
    by_known = ("type_kept", "type_true", "noise_free_kept", "classifier_accuracy")
    figures = {name: total / (n_known if name in by_known else n) for name, total in sums.items()}
    figures.update(_between_cells(cells, rows, seed))
    for name in ("any", "within", "between"):
        if figures.get(f"distance_{name}"):
            figures[f"diversity_{name}"] = figures["copy_diversity"] / figures[f"distance_{name}"]
    return {**figures, "n_measured": float(len(rows))}


def _judge(cells: Cells, spread: Spread, seed: int) -> tuple[Judge | None, np.ndarray | None]:
    """A classifier, and the index of the type of every row (-1 where unknown or absent from the training cells)."""
    if cells.labels_n is None:
        return None, None
    known = cells.train_idx[cells.labels_n[cells.train_idx] != ""]
    names = np.unique(cells.labels_n[known])
    if len(names) < 2:
        return None, None
    index = {name: i for i, name in enumerate(names)}
    types = np.array([index.get(label, -1) for label in cells.labels_n])
    return train_judge(cells.values_ng, known, types[known], spread.mean_g, spread.unit, seed), types


@torch.no_grad()
def _batch(
    augmenter: Augmenter,
    cells: Cells,
    idx: np.ndarray,
    judge: Judge | None,
    types: np.ndarray | None,
    generator: torch.Generator,
) -> dict[str, float]:
    """Sums over a few cells."""
    x_ng = torch.from_numpy(dense_rows(cells.values_ng, idx))
    noise_free_ng = augmenter.noise_free_copy(x_ng)
    noisy_ng, other_ng = (augmenter.noisy_copy(x_ng, generator) for _ in range(2))
    sums = {
        "n": float(len(idx)),
        "copy_distance": _relative(x_ng, noisy_ng),
        "noise_free_distance": _relative(x_ng, noise_free_ng),
        "copy_diversity": float(distance(noisy_ng, other_ng).sum()),
    }
    if judge is not None and types is not None:
        known = types[idx] >= 0
        own, truth = judge.types(x_ng)[known], types[idx][known]
        given = judge.types(noisy_ng)[known]
        sums |= {
            "known": float(known.sum()),
            "type_kept": float((given == own).sum()),
            "type_true": float((given == truth).sum()),
            "noise_free_kept": float((judge.types(noise_free_ng)[known] == own).sum()),
            "classifier_accuracy": float((own == truth).sum()),
        }
    return sums


def _relative(x_ng: Tensor, copy_ng: Tensor) -> float:
    """Sum of ||x - copy|| / ||x||; a cell that is all zero counts in absolute terms."""
    norm_n = x_ng.norm(dim=-1)
    return float((distance(x_ng, copy_ng) / torch.where(norm_n > 0, norm_n, 1.0)).sum())


def _between_cells(cells: Cells, rows: np.ndarray, seed: int) -> dict[str, float]:
    """Mean distance of two cells: any two, two of one type, two of different types."""
    if len(rows) < 2:
        return {}
    draw = np.random.default_rng([seed, 0xD157])
    first = draw.integers(0, len(rows), _PAIRS)
    pairs = rows[np.stack([first, (first + draw.integers(1, len(rows), _PAIRS)) % len(rows)])]
    groups = {"any": pairs}
    if cells.labels_n is not None:
        one, two = cells.labels_n[pairs]
        both = (one != "") & (two != "")
        groups["between"] = pairs[:, both & (one != two)]
        groups["within"] = _pairs_within(rows, cells.labels_n[rows], draw)
    figures = {}
    for name, (a, b) in groups.items():
        if len(a):
            x, y = (torch.from_numpy(dense_rows(cells.values_ng, idx)) for idx in (a, b))
            figures[f"distance_{name}"] = float(distance(x, y).mean())
    return figures


def _pairs_within(rows: np.ndarray, labels_n: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Pairs (2, m) of different cells of one type; types weigh by their cells."""
    found: list[np.ndarray] = [np.empty((2, 0), dtype=rows.dtype)]
    for label in np.unique(labels_n[labels_n != ""]):
        members = rows[labels_n == label]
        if len(members) > 1:
            m = max(1, _PAIRS * len(members) // len(rows))
            first = draw.integers(0, len(members), m)
            second = (first + draw.integers(1, len(members), m)) % len(members)
            found.append(members[np.stack([first, second])])
    return np.concatenate(found, axis=1)
