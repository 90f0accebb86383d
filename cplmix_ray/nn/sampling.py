"""Reparameterised samples. The noise is an argument, as each arm draws it from its own generator."""

import torch
from torch import Tensor

_SMALLEST = 1e-20


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise, -log(-log U), on the generator's device."""
    uniform = torch.rand(shape, generator=generator, device=generator.device).clamp_min(_SMALLEST)
    return -(-uniform.log()).clamp_min(_SMALLEST).log()


def gumbel_softmax(log_q_nk: Tensor, noise_nk: Tensor, temperature: float) -> Tensor:
    """A relaxed sample of q (Jang et al. 2017, Eq. 2): softmax((log q + Gumbel) / temperature), shape as log_q.

    Its largest entry is category k with probability q_k at any temperature.
    """
    return torch.softmax((log_q_nk + noise_nk) / temperature, dim=-1)


def gaussian_sample(mu_nd: Tensor, log_var_nd: Tensor, noise_nd: Tensor) -> Tensor:
    """mu + sigma * noise with standard normal noise."""
    return mu_nd + (0.5 * log_var_nd).exp() * noise_nd
