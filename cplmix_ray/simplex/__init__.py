"""Aitchison geometry of the simplex."""

from cplmix_ray.simplex.geometry import aitchison_distance, centre, clr, d_sigma_squared, floored_std

__all__ = ["aitchison_distance", "centre", "clr", "d_sigma_squared", "floored_std"]
