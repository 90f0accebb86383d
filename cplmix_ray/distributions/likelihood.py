"""The interface of a likelihood, and the registry that settings choose one from."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor

from cplmix_ray.utils import registry

LIKELIHOODS: registry.Registry["Likelihood"] = registry.LIKELIHOODS
"""Likelihoods by the name that ``--likelihood`` takes."""

DEFAULTS = {"images": "bernoulli", "log": "gaussian", "counts": "nb"}
"""What 'auto' stands for, by kind of data."""


class Likelihood(ABC):
    """Distribution of a cell given the decoder's output."""

    kinds: ClassVar[tuple[str, ...]]
    """Kinds of data that it takes: "images" (pixels from 0 to 1) and "log" (log-expression), or "counts" alone."""
    heads: ClassVar[int] = 1
    """Numbers that the decoder gives for each gene."""
    has_dispersion: ClassVar[bool] = False
    """Whether each gene has a dispersion, a parameter that is learned beside the decoder."""
    squared_error_offset: ClassVar[float | None] = None
    """If -log p(x) is half the squared distance between x and the decoder's output plus a constant for each gene, that
    constant. The loss is then computed without the cells x genes matrix of outputs."""

    @property
    def counts(self) -> bool:
        """Whether x holds raw counts. The encoder then gets them scaled to one library size and log-transformed."""
        return "counts" in self.kinds

    @abstractmethod
    def log_prob(self, x_ang: Tensor, out_ang: Tensor, log_theta_a1g: Tensor | None = None) -> Tensor:
        """log p(x | s, c), summed over genes.

        Args:
            x_ang: cells, shape (A, n, g); the arm axis may be missing in all arguments.
            out_ang: decoder output, shape (A, n, heads * g).
            log_theta_a1g: log-dispersion, shape (A, 1, g), for likelihoods that have one.

        Returns:
            Shape (A, n), in nats.
        """

    @abstractmethod
    def mean(self, x_ang: Tensor, out_ang: Tensor) -> Tensor:
        """Expected cell, shape (A, n, g); ``x_ang`` gives the library size where one is needed."""


def register_likelihood(name: str, likelihood: Likelihood) -> None:
    """Let ``--likelihood name`` choose this likelihood.

    Raises:
        ValueError: the name is taken, or the kinds of data are unknown or mix counts with others.
    """
    if not set(likelihood.kinds) <= set(DEFAULTS) or (likelihood.counts and len(likelihood.kinds) > 1):
        raise ValueError(
            f"The likelihood '{name}' takes {likelihood.kinds}; give 'counts' alone, or 'images' and 'log'."
        )
    LIKELIHOODS.register(name, likelihood)


def likelihoods_for(kinds: Iterable[str]) -> list[str]:
    """Names of the likelihoods that take any of these kinds of data."""
    return [name for name in LIKELIHOODS.names() if set(LIKELIHOODS[name].kinds) & set(kinds)]
