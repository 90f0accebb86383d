"""From a trained generator to plain numbers and back."""

from dataclasses import asdict

import torch

from cplmix_ray.augmenter.networks import Augmenter, AugmenterShape
from cplmix_ray.data.augmenter_file import FrozenAugmenter
from cplmix_ray.data.preparation import Preparation


def freeze(augmenter: Augmenter, preparation: Preparation) -> FrozenAugmenter:
    """The weights as they are now."""
    shape = {**asdict(augmenter.shape), "hidden": list(augmenter.shape.hidden)}
    tensors = {name: tensor.detach().cpu().numpy().copy() for name, tensor in augmenter.state_dict().items()}
    return FrozenAugmenter.from_tensors(shape, tensors, preparation)


def revive(frozen: FrozenAugmenter) -> Augmenter:
    """A generator with these weights, which nothing trains any more."""
    augmenter = Augmenter(AugmenterShape(**{**frozen.shape, "hidden": tuple(frozen.shape["hidden"])}))
    # Copied, as the arrays of a set in Ray's object store must not be written to.
    augmenter.load_state_dict({name: torch.tensor(array) for name, array in frozen.tensors.items()})
    return augmenter.eval().requires_grad_(False)
