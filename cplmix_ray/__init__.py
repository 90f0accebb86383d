"""cplmix_ray: coupled mixture VAEs on Ray, for discrete cell types and the continuous states inside them."""

__version__ = "0.1.0"
