"""What the arms tell each other, and how it travels."""

from cplmix_ray.coupling.d_sigma import DSigmaCoupling, Sent
from cplmix_ray.coupling.transport import ArmSum, PendingSum

__all__ = ["ArmSum", "DSigmaCoupling", "PendingSum", "Sent"]
