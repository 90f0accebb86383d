"""From a trained generator to plain numbers and back."""

from dataclasses import asdict

import torch

from cplmix_ray.data.io.augmenter_file import FrozenAugmenter
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.models.vaegan.networks import Augmenter, AugmenterShape
from cplmix_ray.utils.errors import InputError


def freeze(augmenter: Augmenter, preparation: Preparation) -> FrozenAugmenter:
    """The weights as they are now."""
    shape = {**asdict(augmenter.shape), "hidden": list(augmenter.shape.hidden)}
    tensors = {name: tensor.detach().cpu().numpy().copy() for name, tensor in augmenter.state_dict().items()}
    return FrozenAugmenter.from_tensors(shape, tensors, preparation)


def revive(frozen: FrozenAugmenter) -> Augmenter:
    """A generator with these weights, which nothing trains any more.

    Raises:
        InputError: the weights are not those of such networks.
    """
    try:
        shape = AugmenterShape(**{**frozen.shape, "hidden": tuple(frozen.shape["hidden"])})
        with torch.device("meta"):  # without memory: what a file says of sizes is compared with the weights first
            augmenter = Augmenter(shape)
        # Copied, as the arrays of a set in Ray's object store must not be written to.
        weights = {name: torch.tensor(array) for name, array in frozen.tensors.items()}
        augmenter.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"The augmenter's weights do not fit its shape ({reason}); train it again.") from None
    return augmenter.eval().requires_grad_(False)
