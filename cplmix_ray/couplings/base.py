"""What a coupling is: what each arm sends, and how the sum over arms comes back into its gradient.

Every coupling sends one (n, K) tensor and one scalar an arm and step, whatever the number of arms: 4 (n K + 1) bytes
go into one allreduce. What differs is what the tensor holds and what is made of the sum.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sent:
    """What the arms on this worker send.

    Attributes:
        u_ank: the tensor that is summed over arms, shape (A_local, n, K), with its graph.
        norm2_a: ||u_a||^2 averaged over cells, shape (A_local,); rides along.
        floored_a: categories of each arm whose spread is on a floor, shape (A_local,); zero where none is used.
    """

    u_ank: Tensor
    norm2_a: Tensor
    floored_a: Tensor


class Coupling(Protocol):
    """How arms are drawn towards one another, for ``n_arms`` arms in all; one arm alone is drawn nowhere."""

    @property
    def n_arms(self) -> int: ...

    def send(self, log_q_ank: Tensor) -> Sent:
        """What each arm needs to say, from its own posterior (A_local, n, K) alone."""
        ...

    def surrogate(self, sent: Sent, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,); its gradient is each arm's part of the coupling's, with the sum held constant."""
        ...

    def pairwise(self, norm2_total: Tensor, sum_nk: Tensor) -> Tensor:
        """How far the arms are apart, summed over pairs and averaged over cells; scalar, no gradient."""
        ...

    def share(self, surrogate_a: Tensor, sum_nk: Tensor) -> Tensor:
        """Shape (A_local,), no gradient; over all arms the shares add up to what is minimised."""
        ...
