"""cplmix_ray: coupled mixture VAEs on Ray, for discrete cell types and the continuous states inside them."""

from typing import Any

from cplmix_ray.version import __version__

__all__ = ["CplMixVAE", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the API when it is asked for: it brings torch, and `--help` should not wait for that."""
    if name == "CplMixVAE":
        from cplmix_ray.api import CplMixVAE

        return CplMixVAE
    raise AttributeError(f"module 'cplmix_ray' has no attribute '{name}'")
