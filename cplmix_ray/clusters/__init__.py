"""Partitions of cells: ensembles of them, and merging fine ones."""

from cplmix_ray.clusters.ensemble import Ensemble, build_ensemble
from cplmix_ray.clusters.merging import joint_of_copies, merge_by_lift

__all__ = ["Ensemble", "build_ensemble", "joint_of_copies", "merge_by_lift"]
