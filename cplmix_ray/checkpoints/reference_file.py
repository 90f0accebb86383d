"""The file of a checkpoint with the reference cells, with which cells are compared after training."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from cplmix_ray.data.validation.regular_file import require_file
from cplmix_ray.utils.durable import write_whole
from cplmix_ray.utils.errors import InputError

REFERENCE = "reference.safetensors"


def write_reference(checkpoint: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Add the reference cells to the folder of a checkpoint, whose other files exist before training ends.

    Raises:
        InputError, DiskError: they cannot be written there.
    """
    data = safetensors.numpy.save({name: np.ascontiguousarray(each) for name, each in arrays.items()})
    write_whole(checkpoint / REFERENCE, lambda partial: partial.write_bytes(data))


def read_reference(checkpoint: Path) -> dict[str, np.ndarray]:
    """The reference cells in the folder of a checkpoint; empty if training has not ended, or is of another version.

    Raises:
        InputError: the file is damaged.
    """
    path = checkpoint / REFERENCE
    if not path.exists():
        return {}
    require_file(str(path), "the model")
    try:
        return safetensors.numpy.load(path.read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path} is damaged ({' '.join(str(error).split())}); train the model again.") from None
