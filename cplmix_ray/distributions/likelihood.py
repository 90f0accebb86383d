"""The interface of a likelihood."""

from typing import Protocol

from torch import Tensor


class Likelihood(Protocol):
    """Distribution of a cell given the decoder's output."""

    heads: int
    """Numbers that the decoder gives for each gene."""
    has_dispersion: bool
    """Whether each gene has a dispersion of its own, learned beside the decoder."""
    counts: bool
    """Whether x holds raw counts, which the encoder then sees scaled and as logarithms."""
    beyond_squares: float | None
    """-log p is half the squared distance of x from the decoder's output, and this for each gene; None: it is not."""

    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None) -> Tensor:
        """log p(x | s, c), summed over genes.

        Args:
            x_ang: cells, shape (A, n, g).
            out_ang: decoder output, shape (A, n, heads * g).
            log_theta_a1g: log-dispersion, shape (A, 1, g), for likelihoods that have one.

        Returns:
            Shape (A, n), in nats.
        """
        ...

    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        """Expected cell, shape (A, n, g); ``x_ang`` gives the library size where one is needed."""
        ...
