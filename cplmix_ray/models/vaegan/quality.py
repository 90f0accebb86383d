"""Quality of an augmenter's copies: whether they keep the type of their cell, and how much they differ from it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.models.vaegan.moments import Moments
from cplmix_ray.models.vaegan.networks import Augmenter, hidden_layers, linear
from cplmix_ray.models.vaegan.objective import distance
from cplmix_ray.models.vaegan.randomness import CLASSIFIER, COPIES, generator_for, minibatches

_PAIRS = 4096
"""Number of random pairs of cells from which distances within and between types are estimated."""
_HIDDEN, _BATCH_SIZE, _LR, _DROPOUT = 256, 128, 1e-3, 0.2
"""Width, minibatch size, learning rate and dropout of the classifier."""


@dataclass(frozen=True)
class Cells:
    """The cells to measure.

    Attributes:
        train_idx, val_idx: rows; without validation cells, the training cells are measured.
        labels_n: known types of all rows, "" if unknown; None without labels.
    """

    matrix: Matrix
    train_idx: np.ndarray
    val_idx: np.ndarray
    labels_n: np.ndarray | None


def measure(augmenter: Augmenter, cells: Cells, moments: Moments, seed: int) -> dict[str, float]:
    """Measures of the copies, by name.

    Returns:
        copy_distance, noise_free_distance: mean ||x - copy|| / ||x|| of the noisy and of the noise-free copy.
        copy_diversity: mean distance between two noisy copies of one cell; distance_any, distance_within and
            distance_between: mean distance between any two cells, two of one type, and two of different types;
            diversity_any, diversity_within and diversity_between: ratios of copy_diversity to these.
        type_kept, type_true: fraction of noisy copies to which a classifier, trained on the training cells, assigns the
            type that it assigns to the cell itself, and the known type; noise_free_kept: likewise for noise-free
            copies; classifier_accuracy: its accuracy on the cells. Only if types are known.
    """
    augmenter = augmenter.to("cpu").eval()
    rows = cells.val_idx if len(cells.val_idx) else cells.train_idx
    generator = generator_for(seed, COPIES)
    classifier, types = _classifier(cells, moments, seed)
    sums: dict[str, float] = {}
    for at in range(0, len(rows), 512):
        idx = rows[at : at + 512]
        for name, total in _sums(augmenter, cells, idx, classifier, types, generator).items():
            sums[name] = sums.get(name, 0.0) + total
    n, n_known = sums.pop("n"), sums.pop("known", 0.0)
    by_known = ("type_kept", "type_true", "noise_free_kept", "classifier_accuracy")
    measures = {name: total / (n_known if name in by_known else n) for name, total in sums.items()}
    measures.update(_distances(cells, rows, seed))
    for name in ("any", "within", "between"):
        if measures.get(f"distance_{name}"):
            measures[f"diversity_{name}"] = measures["copy_diversity"] / measures[f"distance_{name}"]
    return {**measures, "n_measured": float(len(rows))}


@torch.no_grad()
def _sums(
    augmenter: Augmenter,
    cells: Cells,
    idx: np.ndarray,
    classifier: "TypeClassifier | None",
    types: np.ndarray | None,
    generator: torch.Generator,
) -> dict[str, float]:
    """Sums of the measures over some cells."""
    x_ng = torch.from_numpy(cells.matrix.dense_rows(idx))
    noise_free_ng = augmenter.noise_free_copy(x_ng)
    noisy_ng, other_ng = (augmenter.noisy_copy(x_ng, generator) for _ in range(2))
    sums = {
        "n": float(len(idx)),
        "copy_distance": _relative_distance(x_ng, noisy_ng),
        "noise_free_distance": _relative_distance(x_ng, noise_free_ng),
        "copy_diversity": float(distance(noisy_ng, other_ng).sum()),
    }
    if classifier is not None and types is not None:
        known = types[idx] >= 0
        of_cell, true = classifier.types(x_ng)[known], types[idx][known]
        of_copy = classifier.types(noisy_ng)[known]
        sums |= {
            "known": float(known.sum()),
            "type_kept": float((of_copy == of_cell).sum()),
            "type_true": float((of_copy == true).sum()),
            "noise_free_kept": float((classifier.types(noise_free_ng)[known] == of_cell).sum()),
            "classifier_accuracy": float((of_cell == true).sum()),
        }
    return sums


def _relative_distance(x_ng: Tensor, copy_ng: Tensor) -> float:
    """Sum of ||x - copy|| / ||x||, or of ||x - copy|| for cells with only zeros."""
    norm_n = x_ng.norm(dim=-1)
    return float((distance(x_ng, copy_ng) / torch.where(norm_n > 0, norm_n, 1.0)).sum())


def _distances(cells: Cells, rows: np.ndarray, seed: int) -> dict[str, float]:
    """Mean distance between any two cells, two of one type, and two of different types."""
    if len(rows) < 2:
        return {}
    rng = np.random.default_rng([seed, 0xD157])
    first = rng.integers(0, len(rows), _PAIRS)
    pairs = rows[np.stack([first, (first + rng.integers(1, len(rows), _PAIRS)) % len(rows)])]
    groups = {"any": pairs}
    if cells.labels_n is not None:
        one, two = cells.labels_n[pairs]
        both = (one != "") & (two != "")
        groups["between"] = pairs[:, both & (one != two)]
        groups["within"] = _pairs_within(rows, cells.labels_n[rows], rng)
    distances = {}
    for name, (a, b) in groups.items():
        if len(a):
            x, y = (torch.from_numpy(cells.matrix.dense_rows(idx)) for idx in (a, b))
            distances[f"distance_{name}"] = float(distance(x, y).mean())
    return distances


def _pairs_within(rows: np.ndarray, labels_n: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs (2, m) of different cells of one type; each type has as many pairs as its fraction of the cells."""
    found: list[np.ndarray] = [np.empty((2, 0), dtype=rows.dtype)]
    for label in np.unique(labels_n[labels_n != ""]):
        members = rows[labels_n == label]
        if len(members) > 1:
            m = max(1, _PAIRS * len(members) // len(rows))
            first = rng.integers(0, len(members), m)
            second = (first + rng.integers(1, len(members), m)) % len(members)
            found.append(members[np.stack([first, second])])
    return np.concatenate(found, axis=1)


class TypeClassifier(nn.Module):
    """A classifier of known types: one hidden layer over standardised values. The augmenter itself uses no labels."""

    def __init__(self, moments: Moments, n_types: int, generator: torch.Generator):
        super().__init__()
        mean_g = moments.mean_g
        self.mean_g, self.scale = torch.from_numpy(mean_g), len(mean_g) ** 0.5 / moments.rms_distance
        self.layers = hidden_layers((len(mean_g), _HIDDEN), generator)
        self.out = linear(_HIDDEN, n_types, generator)

    def forward(self, x_ng: Tensor) -> Tensor:
        return self.out(self.layers((x_ng - self.mean_g) * self.scale))

    @torch.no_grad()
    def types(self, x_ng: Tensor) -> np.ndarray:
        """Index of the type of each cell."""
        return self(x_ng).argmax(-1).numpy()


def _classifier(cells: Cells, moments: Moments, seed: int) -> tuple[TypeClassifier | None, np.ndarray | None]:
    """A trained classifier, and the index of the type of every row (-1 if unknown or absent from the training cells);
    None if fewer than two types are known."""
    if cells.labels_n is None:
        return None, None
    known = cells.train_idx[cells.labels_n[cells.train_idx] != ""]
    names = np.unique(cells.labels_n[known])
    if len(names) < 2:
        return None, None
    index = {name: i for i, name in enumerate(names)}
    types = np.array([index.get(label, -1) for label in cells.labels_n])
    return train_classifier(cells.matrix, known, types[known], moments, seed), types


def train_classifier(
    matrix: Matrix, rows: np.ndarray, types_n: np.ndarray, moments: Moments, seed: int
) -> TypeClassifier:
    """Train on ``rows`` with the indices of their types for ten epochs, but at least 300 and at most 3,000 steps."""
    generator = generator_for(seed, CLASSIFIER)
    classifier = TypeClassifier(moments, int(types_n.max()) + 1, generator)
    n_steps = int(np.clip(10 * len(rows) / _BATCH_SIZE, 300, 3000))
    optimiser = torch.optim.AdamW(classifier.parameters(), _LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for at in minibatches(np.arange(len(rows)), _BATCH_SIZE, n_steps, seed):
        x_ng = torch.from_numpy(matrix.dense_rows(rows[at]))
        kept_ng = torch.rand(x_ng.shape, generator=generator) >= _DROPOUT
        loss = nn.functional.cross_entropy(classifier(x_ng * kept_ng / (1 - _DROPOUT)), torch.from_numpy(types_n[at]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return classifier.eval()
