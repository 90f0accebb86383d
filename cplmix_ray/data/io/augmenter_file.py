"""A frozen augmenter as a folder, and as what travels to the arms with the cells."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.validation.regular_file import is_file, require_file
from cplmix_ray.utils.errors import InputError

FORMAT = 1
WEIGHTS, MANIFEST = "augmenter.safetensors", "manifest.json"


@dataclass(frozen=True)
class FrozenAugmenter:
    """Weights of a trained generator with what is needed to build it; plain numbers, which any process can be sent.

    Attributes:
        shape: the arguments of AugmenterShape by name.
        tensors: weights by name.
        preparation: how the values were made on which it was trained.
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
        """Content of manifest.json, with ``facts`` beside what reading needs."""
        needed = {"format": FORMAT, "files": {WEIGHTS: self.checksum}, "shape": self.shape}
        return {**needed, **facts, "preparation": self.preparation.as_dict()}

    def require_fit(self, preparation: Preparation, name: str) -> None:
        """Refuse cells that are not what the augmenter was trained on.

        Raises:
            InputError: other genes, another order of them, or another preparation.
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
                f"The augmenter was trained on values prepared otherwise than those of {name} ({', '.join(differ)}); "
                f"{remedy}."
            )


def read_augmenter(path: str | Path) -> FrozenAugmenter:
    """Read the folder that the augment command wrote.

    Raises:
        InputError: it is missing, damaged, or of another format.
    """
    folder = Path(path)
    if not is_file(folder / MANIFEST):
        raise InputError(f"{path} holds no augmenter; give the folder that python -m cplmix_ray.augment wrote.")
    require_file(folder / WEIGHTS, "--augmenter")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if not isinstance(manifest, dict):
            raise ValueError(f"{MANIFEST} is no mapping")
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']} is not {FORMAT}, which this version reads")
        data = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["files"][WEIGHTS]:
            raise ValueError(f"{WEIGHTS} does not match its checksum")
        preparation = Preparation.from_dict(manifest["preparation"])
        tensors = safetensors.numpy.load(data)
        for name, tensor in tensors.items():
            if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise ValueError(f"{name} of {WEIGHTS} is not all float32 numbers")
        _require_shape(manifest["shape"])
        return FrozenAugmenter.from_tensors(manifest["shape"], tensors, preparation)
    except InputError:
        raise
    except Exception as error:  # a file that was altered fails in many ways, all of which mean the same
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"The augmenter in {path} is damaged ({reason}); train it again.") from None


def _require_shape(shape: dict[str, Any]) -> None:
    """Refuse sizes that no networks have, before any are made of them.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(shape, dict) or not isinstance(shape.get("hidden"), list) or not shape["hidden"]:
        raise ValueError("its shape is none")
    for name in ("n_features", "latent_dim", "noise_dim"):
        if type(shape.get(name)) is not int or not 1 <= shape[name] < 2**24:
            raise ValueError(f"its shape has {name} {str(shape.get(name))[:40]}")
    if any(type(width) is not int or not 1 <= width < 2**24 for width in shape["hidden"]):
        raise ValueError("its shape has hidden layers that can be none")
