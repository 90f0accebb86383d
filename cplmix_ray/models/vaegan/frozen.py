"""Trained generators: reading and writing their files, sending them to other processes, and building the networks."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.validation.regular_file import is_file, require_file
from cplmix_ray.utils.durable import write_json, write_whole
from cplmix_ray.utils.errors import InputError

if TYPE_CHECKING:
    from cplmix_ray.models.vaegan.networks import Augmenter

FORMAT = 1
WEIGHTS, MANIFEST = "augmenter.safetensors", "manifest.json"


@dataclass(frozen=True)
class FrozenAugmenter:
    """Weights of a trained generator as NumPy arrays, with its shape; can be sent to any process.

    Attributes:
        shape: the arguments of AugmenterShape by name.
        tensors: weights by name.
        preparation: preparation of the values on which it was trained.
        checksum: SHA-256 of the file of weights.
    """

    shape: dict[str, Any]
    tensors: dict[str, np.ndarray]
    preparation: Preparation
    checksum: str

    @classmethod
    def from_tensors(
        cls, shape: dict[str, Any], tensors: dict[str, np.ndarray], preparation: Preparation
    ) -> "FrozenAugmenter":
        return cls(shape, tensors, preparation, hashlib.sha256(safetensors.numpy.save(tensors)).hexdigest())

    def weights(self) -> bytes:
        """Content of augmenter.safetensors."""
        return safetensors.numpy.save(self.tensors)

    def manifest(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Content of manifest.json, with additional ``facts``."""
        required = {"format": FORMAT, "files": {WEIGHTS: self.checksum}, "shape": self.shape}
        return {**required, **facts, "preparation": self.preparation.as_dict()}

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write both files; the manifest last, since a folder without it is not an augmenter.

        Raises:
            InputError, DiskError: they cannot be written.
        """
        write_whole(folder / WEIGHTS, lambda partial: partial.write_bytes(self.weights()))
        write_json(folder / MANIFEST, self.manifest(facts))

    def require_fit(self, preparation: Preparation, name: str) -> None:
        """Check that cells have the genes and the preparation that the augmenter was trained with.

        Raises:
            InputError: their genes, the order of their genes, or their preparation are different.
        """
        ours = self.preparation
        remedy = "train one for these cells with python -m cplmix_ray.augment and the same --data, --hvg and others"
        if ours.kind != preparation.kind:
            raise InputError(f"The augmenter was trained on {ours.kind} values, not on {preparation.kind}; {remedy}.")
        if ours.var_names != preparation.var_names:
            missing = set(ours.var_names) - set(preparation.var_names)
            how = f"{len(missing)} of its {len(ours.var_names)} are not among" if missing else "it has not all of"
            if set(ours.var_names) == set(preparation.var_names):
                how = "it has another order than"
            raise InputError(
                f"The augmenter was trained on other genes or pixels: {how} the {len(preparation.var_names)} of "
                f"{name}; {remedy}."
            )
        if ours != preparation:
            differ = [key for key, value in ours.as_dict().items() if value != preparation.as_dict()[key]]
            raise InputError(
                f"The augmenter was trained on values with another preparation than those of {name} "
                f"({', '.join(differ)}); {remedy}."
            )


def read_augmenter(path: str | Path) -> FrozenAugmenter:
    """Read the folder that the augment command wrote.

    Raises:
        InputError: it is missing, damaged, or has another format.
    """
    folder = Path(path)
    if not is_file(folder / MANIFEST):
        raise InputError(f"{path} contains no augmenter; give the folder that python -m cplmix_ray.augment wrote.")
    require_file(folder / WEIGHTS, "--augmenter")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if not isinstance(manifest, dict):
            raise ValueError(f"{MANIFEST} is not a mapping")
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']} is not {FORMAT}, which this version reads")
        data = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["files"][WEIGHTS]:
            raise ValueError(f"{WEIGHTS} does not match its checksum")
        preparation = Preparation.from_dict(manifest["preparation"])
        tensors = safetensors.numpy.load(data)
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise ValueError(f"{name} of {WEIGHTS} does not consist of finite float32 numbers")
        _require_shape(manifest["shape"])
        return FrozenAugmenter.from_tensors(manifest["shape"], tensors, preparation)
    except InputError:
        raise
    except Exception as error:  # reading a damaged file can raise many kinds of errors
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"The augmenter in {path} is damaged ({reason}); train it again.") from None


def _require_shape(shape: dict[str, Any]) -> None:
    """Check the sizes of the networks before they are built.

    Raises:
        ValueError: a size is missing or invalid.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("hidden"), list) or not shape["hidden"]:
        raise ValueError("its shape is invalid")
    for name in ("n_features", "latent_dim", "noise_dim"):
        if type(shape.get(name)) is not int or not 1 <= shape[name] < 2**24:
            raise ValueError(f"its shape has {name} {str(shape.get(name))[:40]}")
    if any(type(width) is not int or not 1 <= width < 2**24 for width in shape["hidden"]):
        raise ValueError("its shape has hidden layers of invalid widths")


def freeze(augmenter: "Augmenter", preparation: Preparation) -> FrozenAugmenter:
    """A copy of the weights of a generator."""
    shape = {**asdict(augmenter.shape), "hidden": list(augmenter.shape.hidden)}
    tensors = {name: tensor.detach().cpu().numpy().copy() for name, tensor in augmenter.state_dict().items()}
    return FrozenAugmenter.from_tensors(shape, tensors, preparation)


def build_augmenter(frozen: FrozenAugmenter) -> "Augmenter":
    """A generator with frozen weights, in evaluation mode and without gradients.

    Raises:
        InputError: the weights do not fit the shape.
    """
    import torch  # its import is slow, and reading the files does not need it

    from cplmix_ray.models.vaegan.networks import Augmenter, AugmenterShape

    try:
        shape = AugmenterShape(**{**frozen.shape, "hidden": tuple(frozen.shape["hidden"])})
        with torch.device("meta"):  # so that sizes are compared with the weights before memory is allocated
            augmenter = Augmenter(shape)
        # Copied, since arrays in Ray's object store must not be modified.
        weights = {name: torch.tensor(array) for name, array in frozen.tensors.items()}
        augmenter.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"The augmenter's weights do not fit its shape ({reason}); train it again.") from None
    return augmenter.eval().requires_grad_(False)
