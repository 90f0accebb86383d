"""Type-preserving copies: what an arm sees in place of a cell."""

from cplmix_ray.copies.base import Copy, make_copies
from cplmix_ray.copies.build import build_copies

__all__ = ["Copy", "build_copies", "make_copies"]
