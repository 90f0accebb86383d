"""Removal of categories from trained coupled mixture VAEs; the weights of the other categories stay as they are.

Every tensor with an axis of the categories is cut along it: the head of the categories and its pooling, the inputs of
the state head and of the decoder, means and loadings of a linear decoder, and Adam's moments of all these. With the
plain softmax, the posterior is then the one before, divided by its sum over the categories that are left.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from cplmix_ray.models.base import Parts
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig, ModelSettings

_NEVER = -1e4
"""Logit of a fine category that no cell has: its probability, and so its gradient, is exactly 0."""


def without_categories(
    config: CplMixVAEConfig, parts: Parts, removed: Collection[int]
) -> tuple[CplMixVAEConfig, Parts]:
    """Settings and parts of the model without some categories; the others keep their order.

    The initial clustering is no longer learned.
    """
    model = config.model
    kept = torch.tensor([k for k in range(model.n_k) if k not in removed])
    fine, overcluster = kept, 1
    if model.overcluster > 1:  # the fine categories, ordered by the category that they belong to
        own_f = next(iter(parts.values()))["network/pool"].argmax(1)
        fine = torch.cat([(own_f == k).nonzero().flatten() for k in kept])
        overcluster = -(-len(fine) // len(kept))
    settings = {"n_categories": len(kept), "overcluster": overcluster}
    smaller = config.with_settings(model=settings, objective={"guess": 0.0})
    cut = {
        part: {name: _cut(name, t, model, kept, fine, smaller.model.n_fine) for name, t in tensors.items()}
        for part, tensors in parts.items()
    }
    if overcluster == 1:
        cut = {
            part: {name: t for name, t in tensors.items() if name != "network/pool"} for part, tensors in cut.items()
        }
    return smaller, cut


def _cut(name: str, tensor: Tensor, model: ModelSettings, kept: Tensor, fine: Tensor, n_fine: int) -> Tensor:
    """A tensor of an arm, such as ``network/category_head.bias`` or ``adam/category_head.bias/exp_avg``.

    Args:
        kept, fine: categories and fine categories that are left, in their new order.
        n_fine: number of fine categories of the smaller model, at least that of ``fine``.
    """
    kind, _, weight = name.partition("/")
    if kind == "adam":
        weight = weight.rpartition("/")[0]
    if kind not in ("network", "adam") or tensor.dim() == 0:
        return tensor
    n_k, n_d = model.n_k, model.state_dim
    match weight:
        case "category_head.weight" | "category_head.bias":
            missing = _NEVER if name == "network/category_head.bias" else 0.0
            return nn.functional.pad(tensor[..., fine], (0, n_fine - len(fine)), value=missing)
        case "pool":
            pool = nn.functional.pad(tensor[fine][:, kept], (0, 0, 0, n_fine - len(fine)))
            pool[len(fine) :, 0] = 1.0
            return pool
        case "state_head.weight" if model.state_given_category:  # of [z, c]
            return _blocks(tensor, 0, len(tensor) - n_k, 1, n_k, kept)
        case "decoder.linears.0.weight":  # of [c, s, covariates]
            return _blocks(tensor, 0, 0, 1, n_k, kept)
        case "linear.weight":  # of [c, c (x) s, covariates, 1]
            return _blocks(_blocks(tensor, 1, n_k, n_d, n_k, kept), 1, 0, 1, n_k, kept)
        case "linear.own_effects":  # of c (x) covariates
            return _blocks(tensor, 1, 0, tensor.shape[1] // n_k, n_k, kept)
        case "linear.centre" | "linear.log_spread":
            return _blocks(tensor, 0, 0, n_d, n_k, kept)
    return tensor


def _blocks(tensor: Tensor, axis: int, first: int, width: int, n_blocks: int, kept: Tensor) -> Tensor:
    """Of ``n_blocks`` blocks of ``width`` along an axis, the first of which begins at ``first``, those kept."""
    before, blocks, after = tensor.split([first, n_blocks * width, tensor.shape[axis] - first - n_blocks * width], axis)
    chosen = blocks.unflatten(axis, (n_blocks, width)).index_select(axis, kept).flatten(axis, axis + 1)
    return torch.cat([before, chosen, after], dim=axis)
