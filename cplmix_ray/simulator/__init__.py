"""Cells with a known type and a known continuous state, as realistic as it takes to judge a method by them."""

from cplmix_ray.simulator.settings import Simulation
from cplmix_ray.simulator.simulate import simulate

__all__ = ["Simulation", "simulate"]
