"""A small classifier of known types, the judge of whether a copy keeps its type; it sees labels, the augmenter none."""

import numpy as np
import torch
from torch import Tensor, nn

from cplmix_ray.data.source import Values
from cplmix_ray.data.training_set import dense_rows
from cplmix_ray.models.vaegan.networks import hidden_layers, linear
from cplmix_ray.models.vaegan.randomness import CLASSIFIER, generator_for, minibatches

_HIDDEN, _BATCH, _LR, _DROPOUT = 256, 128, 1e-3, 0.2


class Judge(nn.Module):
    """One hidden layer over standardised values."""

    def __init__(self, mean_g: np.ndarray, unit: float, n_types: int, generator: torch.Generator):
        super().__init__()
        self.mean_g, self.scale = torch.from_numpy(mean_g), len(mean_g) ** 0.5 / unit
        self.layers = hidden_layers((len(mean_g), _HIDDEN), generator)
        self.out = linear(_HIDDEN, n_types, generator)

    def forward(self, x_ng: Tensor) -> Tensor:
        return self.out(self.layers((x_ng - self.mean_g) * self.scale))

    @torch.no_grad()
    def types(self, x_ng: Tensor) -> np.ndarray:
        """Index of the type of each cell."""
        return self(x_ng).argmax(-1).numpy()


def train_judge(
    values_ng: Values, rows: np.ndarray, types_n: np.ndarray, mean_g: np.ndarray, unit: float, seed: int
) -> Judge:
    """Train on ``rows`` with the indices of their types: ten passes, or as many as make 300 steps, at most 3,000."""
    generator = generator_for(seed, CLASSIFIER)
    judge = Judge(mean_g, unit, int(types_n.max()) + 1, generator)
    n_steps = int(np.clip(10 * len(rows) / _BATCH, 300, 3000))
    optimiser = torch.optim.AdamW(judge.parameters(), _LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    for at in minibatches(np.arange(len(rows)), _BATCH, n_steps, seed):
        x_ng = torch.from_numpy(dense_rows(values_ng, rows[at]))
        kept_ng = torch.rand(x_ng.shape, generator=generator) >= _DROPOUT
        loss = nn.functional.cross_entropy(judge(x_ng * kept_ng / (1 - _DROPOUT)), torch.from_numpy(types_n[at]))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return judge.eval()
