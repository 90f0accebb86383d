"""Where the arms run: packed in this process, or spread over Ray actors. Knows no equation."""

from cplmix_ray.engine.plan import Plan
from cplmix_ray.engine.run import Engine, engine_for

__all__ = ["Engine", "Plan", "engine_for"]
