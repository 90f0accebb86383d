"""The interface of a coupling, and the registry that settings choose one from.

In each step an arm sends one (n, K) tensor and one scalar, which are summed over arms in one all-reduce of 4 (n K + 1)
bytes, whatever the number of arms. Couplings differ in what the tensor holds and how its sum enters the gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cplmix_ray.collectives.shards import WHOLE, Shards
from cplmix_ray.utils import registry


@dataclass(frozen=True)
class Sent:
    """What the arms on this worker send.

    Attributes:
        u_ank: the tensor that is summed over arms, shape (A_local, n, K), with its graph.
        norm2_a: ||u_a||^2 averaged over cells, shape (A_local,); summed over arms as well.
        floored_a: number of categories of each arm whose standard deviation is at its floor, shape (A_local,); zero
            for couplings without a floor.
    """

    u_ank: Tensor
    norm2_a: Tensor
    floored_a: Tensor


class Coupling(Protocol):
    """Draws the posteriors of ``n_arms`` arms towards one another; with one arm it is zero."""

    @property
    def n_arms(self) -> int: ...

    def send(self, log_q_ank: Tensor) -> Sent:
        """What each arm sends, from its own posterior (A_local, n, K) alone."""
        ...

    def surrogate(self, sent: Sent, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,); its gradient is each arm's part of the coupling's, with the sum held constant."""
        ...

    def pairwise(self, norm2_total: Tensor, sum_nk: Tensor) -> Tensor:
        """Distance between arms, summed over pairs and averaged over cells; scalar, no gradient."""
        ...

    def share(self, surrogate_a: Tensor, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,), no gradient; over all arms the shares add up to what is minimised."""
        ...


BuildCoupling = Callable[[int, float, Shards], Coupling]
"""From the number of arms in all, the setting ``sigma_floor`` and the shards of the minibatch to a coupling."""

COUPLINGS: registry.Registry[BuildCoupling] = registry.COUPLINGS
"""Couplings by the name that ``--coupling`` and ``--align-coupling`` take."""


def register_coupling(name: str, build: BuildCoupling) -> None:
    """Let ``--coupling name`` and ``--align-coupling name`` choose the coupling that ``build`` makes.

    Raises:
        ValueError: the name is taken.
    """
    COUPLINGS.register(name, build)


def build_coupling(name: str, n_arms: int, sigma_floor: float, shards: Shards = WHOLE) -> Coupling:
    """The coupling of that name.

    Args:
        n_arms: number of arms in all, on this worker and on others.
        sigma_floor: smallest standard deviation of a category, for couplings that divide by it.
        shards: parts of the minibatch that are held here, for couplings with a statistic of the whole minibatch.

    Raises:
        InputError: there is no such coupling.
    """
    return COUPLINGS[name](n_arms, sigma_floor, shards)
