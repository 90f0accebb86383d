"""Copies of cells: fewer molecules of counts, fewer genes of log-expression."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cplmix_ray.augmentations.base import Copy
from cplmix_ray.nn.dropout_masks import kept


@dataclass(frozen=True)
class Thinning(Copy):
    """Each molecule is kept with probability ``keep``, as if the cell had been sequenced less deeply."""

    keep: float
    by_value: ClassVar[bool] = True

    def alter(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        if self.keep >= 1.0:
            return x_ng
        # Most counts are zero and stay so; the binomial sampler is slow, so only the others are drawn. What is no count
        # (NaN) stays too: made zero here, nobody would hear of it.
        out_ng = x_ng.clone()
        seen = x_ng > 0
        counts = x_ng[seen]
        out_ng[seen] = torch.binomial(counts, torch.full_like(counts, self.keep), generator=generator)
        return out_ng


@dataclass(frozen=True)
class GeneDropout(Copy):
    """Genes are set to zero at random, and expressed genes jittered.

    Args:
        drop: probability that a gene of a cell is set to zero.
        noise: standard deviation of Gaussian noise on the logarithms of expressed genes; zeros stay zero.
    """

    drop: float
    noise: float
    by_value: ClassVar[bool] = True

    def alter(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        if self.noise > 0:
            jitter_ng = torch.randn(x_ng.shape, generator=generator, device=generator.device)
            x_ng = torch.where(x_ng == 0, x_ng, x_ng + self.noise * jitter_ng)
        if self.drop > 0:
            x_ng = x_ng * kept(tuple(x_ng.shape), self.drop, generator)[0]
        return x_ng
