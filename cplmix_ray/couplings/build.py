"""From the name of a coupling to its strategy."""

from cplmix_ray.collectives.shards import WHOLE, Shards
from cplmix_ray.config import CouplingName
from cplmix_ray.couplings.agreement import AgreementCoupling
from cplmix_ray.couplings.base import Coupling
from cplmix_ray.couplings.distances import AitchisonCoupling, DSigmaCoupling, EuclideanCoupling


def build_coupling(name: CouplingName, n_arms: int, sigma_floor: float, shards: Shards = WHOLE) -> Coupling:
    """The strategy of that name for ``n_arms`` arms in all; floor and shares of the minibatch matter to d_sigma alone,
    which has a figure of the whole minibatch in it."""
    match name:
        case "d_sigma":
            return DSigmaCoupling(n_arms, sigma_floor, shards)
        case "aitchison":
            return AitchisonCoupling(n_arms)
        case "euclidean":
            return EuclideanCoupling(n_arms)
        case "agreement":
            return AgreementCoupling(n_arms)
