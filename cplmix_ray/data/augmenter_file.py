"""A frozen augmenter as a folder, and as what travels to the arms with the cells."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from cplmix_ray.data.preparation import Preparation
from cplmix_ray.errors import InputError

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
    if not (folder / MANIFEST).exists():
        raise InputError(f"{path} holds no augmenter; give the folder that python -m cplmix_ray.augment wrote.")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']} is not {FORMAT}, which this version reads")
        data = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(data).hexdigest() != manifest["files"][WEIGHTS]:
            raise ValueError(f"{WEIGHTS} does not match its checksum")
        preparation = Preparation.from_dict(manifest["preparation"])
        return FrozenAugmenter.from_tensors(manifest["shape"], safetensors.numpy.load(data), preparation)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"The augmenter in {path} is damaged ({error}); train it again.") from None
