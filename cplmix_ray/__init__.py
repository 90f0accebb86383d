"""cplmix_ray: coupled mixture VAEs on Ray, for discrete cell types and the continuous states inside them."""

from typing import Any

# Registers the settings of the built-in families.
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.vaegan.config import VAEGANConfig
from cplmix_ray.utils.errors import CplMixWarning
from cplmix_ray.version import __version__

__all__ = ["CplMixVAE", "CplMixVAEConfig", "CplMixWarning", "VAEGANConfig", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the API when it is asked for: it imports torch, and `--help` should not wait for that."""
    if name == "CplMixVAE":
        from cplmix_ray.api import CplMixVAE

        return CplMixVAE
    raise AttributeError(f"module 'cplmix_ray' has no attribute '{name}'")
