"""Where the arms run: packed in this process, or spread over Ray actors. Knows no equation."""

from cplmix_ray.engine.plan import Plan
from cplmix_ray.engine.run import engine_for, run_arms

__all__ = ["Plan", "engine_for", "run_arms"]
