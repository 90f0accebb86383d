"""Modules outside the package that register likelihoods, couplings or augmentations of their own."""

import os
from importlib import import_module, metadata

from cplmix_ray.utils.errors import InputError

GROUP, VARIABLE = "cplmix_ray", "CPLMIX_RAY_EXTENSIONS"


def load_extensions() -> None:
    """Import every module that an installed package names as an entry point of the group ``cplmix_ray``, and those
    named, with commas between them, in CPLMIX_RAY_EXTENSIONS.

    Every process of a run does so before it reads settings or trains.

    Raises:
        InputError: one of them cannot be imported.
    """
    installed = [point.module for point in metadata.entry_points(group=GROUP)]
    named = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    for module in filter(None, [*installed, *named]):
        try:
            import_module(module)
        except Exception as error:  # it is somebody else's code
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"Cannot import the extension {module} ({reason}); correct it, or take it out of {VARIABLE}."
            ) from error
