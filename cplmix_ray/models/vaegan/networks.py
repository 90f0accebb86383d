"""The networks of the VAE-GAN: generator (encoder and decoder) and discriminator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

_LOG_VAR_BOUND = 8.0


def linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with weights drawn uniformly within +-1/sqrt(n_in) from ``generator``."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    bound = 1.0 / math.sqrt(n_in)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def hidden_layers(widths: Sequence[int], generator: torch.Generator, norm: bool = True) -> nn.Sequential:
    """Linear layers, each followed by layer normalisation (independent of the minibatch) and leaky ReLU."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [linear(n_in, n_out, generator), *([nn.LayerNorm(n_out)] if norm else []), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class AugmenterShape:
    """Sizes and properties of a generator.

    Attributes:
        n_features: genes or pixels.
        pixels: whether values are Bernoulli pixels in [0, 1]; otherwise they are Gaussian log-expression.
        nonnegative: whether negative values of a copy are set to zero (for log-expression of at least zero).
        keep_zeros: whether a copy is zero where its cell is. Most zeros are undetected molecules, which a decoder
            cannot predict; without them, copies would be smoother than cells.
    """

    n_features: int
    latent_dim: int
    noise_dim: int
    hidden: tuple[int, ...]
    pixels: bool
    nonnegative: bool
    keep_zeros: bool = False


class Augmenter(nn.Module):
    """The generator G: an encoder q(z|x) = N(mu(x), diag(var(x))), and a decoder of z and noise n.

    Args:
        generator: random generator of the initial weights; None if weights will be loaded.
    """

    def __init__(self, shape: AugmenterShape, generator: torch.Generator | None = None):
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        self.shape = shape
        self.encoder = hidden_layers((shape.n_features, *shape.hidden), generator)
        self.posterior = linear(shape.hidden[-1], 2 * shape.latent_dim, generator)
        backwards = shape.hidden[::-1]
        self.decoder = hidden_layers((shape.latent_dim + shape.noise_dim, *backwards), generator)
        self.out = linear(backwards[-1], shape.n_features, generator)

    def initialise_output(self, mean_g: Tensor) -> None:
        """Set the bias of the output, so that the untrained decoder generates cells near the mean."""
        mean_g = torch.logit(mean_g.clamp(0.001, 0.999)) if self.shape.pixels else mean_g
        with torch.no_grad():
            self.out.bias.copy_(mean_g)

    def encode(self, x_ng: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (n, d)."""
        mu_nd, log_var_nd = self.posterior(self.encoder(x_ng)).chunk(2, dim=-1)
        return mu_nd, log_var_nd.clamp(-_LOG_VAR_BOUND, _LOG_VAR_BOUND)

    def decode(self, z_nd: Tensor, noise_nm: Tensor) -> Tensor:
        """Parameters of p(x|z, n), shape (n, g): logits of pixels, means of log-expression."""
        return self.out(self.decoder(torch.cat([z_nd, noise_nm], dim=-1)))

    def masked(self, out_ng: Tensor, x_ng: Tensor) -> Tensor:
        """The output of the decoder, set to zero where the cell is zero if ``keep_zeros``."""
        return out_ng * (x_ng != 0) if self.shape.keep_zeros else out_ng

    def values(self, out_ng: Tensor, x_ng: Tensor) -> Tensor:
        """Values of a copy, in the range of the values of cells."""
        if self.shape.pixels:
            return torch.sigmoid(out_ng)
        out_ng = self.masked(out_ng, x_ng)
        return torch.relu(out_ng) if self.shape.nonnegative else out_ng

    def noise_free_copy(self, x_ng: Tensor) -> Tensor:
        """G(mu(x), 0), which is deterministic."""
        mu_nd, _ = self.encode(x_ng)
        return self.values(self.decode(mu_nd, mu_nd.new_zeros(len(mu_nd), self.shape.noise_dim)), x_ng)

    def noisy_copy(self, x_ng: Tensor, generator: torch.Generator) -> Tensor:
        """G(z, n) with z ~ q(z|x) and n ~ N(0, I), as in training."""
        mu_nd, log_var_nd = self.encode(x_ng)
        sample = torch.randn(
            (len(x_ng), self.shape.latent_dim + self.shape.noise_dim), generator=generator, device=generator.device
        )
        eps_nd, noise_nm = sample.split([self.shape.latent_dim, self.shape.noise_dim], dim=-1)
        return self.values(self.decode(mu_nd + (0.5 * log_var_nd).exp() * eps_nd, noise_nm), x_ng)


class Discriminator(nn.Module):
    """D: the logit of a cell being real, shape (n,); without normalisation, so that the R1 penalty applies per cell."""

    def __init__(self, n_features: int, hidden: Sequence[int], generator: torch.Generator):
        super().__init__()
        self.layers = hidden_layers((n_features, *hidden), generator, norm=False)
        self.out = linear(hidden[-1], 1, generator)

    def forward(self, x_ng: Tensor) -> Tensor:
        return self.out(self.layers(x_ng)).squeeze(-1)
