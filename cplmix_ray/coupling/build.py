"""From the name of a coupling to its strategy."""

from cplmix_ray.config import CouplingName
from cplmix_ray.coupling.agreement import AgreementCoupling
from cplmix_ray.coupling.base import Coupling
from cplmix_ray.coupling.distances import AitchisonCoupling, DSigmaCoupling, EuclideanCoupling


def build_coupling(name: CouplingName, n_arms: int, sigma_floor: float) -> Coupling:
    """The strategy of that name for ``n_arms`` arms in all; the floor matters to d_sigma alone."""
    match name:
        case "d_sigma":
            return DSigmaCoupling(n_arms, sigma_floor)
        case "aitchison":
            return AitchisonCoupling(n_arms)
        case "euclidean":
            return EuclideanCoupling(n_arms)
        case "agreement":
            return AgreementCoupling(n_arms)
