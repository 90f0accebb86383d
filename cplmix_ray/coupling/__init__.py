"""What the arms tell each other, and how it travels."""

from cplmix_ray.coupling.agreement import AgreementCoupling
from cplmix_ray.coupling.base import Coupling, Sent
from cplmix_ray.coupling.build import build_coupling
from cplmix_ray.coupling.distances import AitchisonCoupling, DSigmaCoupling, EuclideanCoupling
from cplmix_ray.coupling.transport import ArmSum, PendingSum, sum_gradients

__all__ = [
    "AgreementCoupling",
    "AitchisonCoupling",
    "ArmSum",
    "Coupling",
    "DSigmaCoupling",
    "EuclideanCoupling",
    "PendingSum",
    "Sent",
    "build_coupling",
    "sum_gradients",
]
