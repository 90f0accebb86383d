"""Augmentations of cells: thinning of counts, gene dropout and noise of log-expression."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cplmix_ray.augmentations.augmentation import Augmentation, register_augmentation
from cplmix_ray.nn.dropout_masks import dropout_mask


@dataclass(frozen=True)
class Thinning(Augmentation):
    """Each molecule is kept with probability ``keep``, as if the cell had been sequenced less deeply."""

    keep: float
    elementwise: ClassVar[bool] = True

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        if self.keep >= 1.0:
            return x_ng
        # The binomial sampler is slow, so it is run on positive counts alone. NaN is kept, so that the checks of
        # finite values find it.
        out_ng = x_ng.clone()
        seen = x_ng > 0
        counts = x_ng[seen]
        out_ng[seen] = torch.binomial(counts, torch.full_like(counts, self.keep), generator=generator)
        return out_ng


@dataclass(frozen=True)
class GeneDropout(Augmentation):
    """Genes are set to zero at random, and Gaussian noise is added to expressed genes.

    The values that are kept are divided by the probability of being kept, as in input dropout: a copy has the cell
    itself as its expectation, so that the decoder and the batch statistics also fit cells without augmentation.

    Args:
        drop: probability that a gene of a cell is set to zero.
        noise: standard deviation of the noise, on log-expression; zeros stay zero.
    """

    drop: float
    noise: float
    elementwise: ClassVar[bool] = True

    def transform(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        if self.noise > 0:
            jitter_ng = torch.randn(x_ng.shape, generator=generator, device=generator.device)
            x_ng = torch.where(x_ng == 0, x_ng, x_ng + self.noise * jitter_ng)
        if self.drop > 0:
            mask_ng, keep_rate = dropout_mask(tuple(x_ng.shape), self.drop, generator)
            x_ng = x_ng * mask_ng / keep_rate
        return x_ng


register_augmentation(
    "thinning", lambda inputs: Thinning(inputs.settings.thinning_keep), kinds=("counts",), default_for=("counts",)
)
register_augmentation(
    "gene_dropout",
    lambda inputs: GeneDropout(inputs.settings.drop_genes, inputs.settings.expression_noise),
    kinds=("log",),
    default_for=("log",),
)
