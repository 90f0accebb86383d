"""The terms of the augmenter's objective; its equation is in the docstring of this package."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from cplmix_ray.models.vaegan.networks import Augmenter, Discriminator


def triplet(x_ng: Tensor, noise_free_ng: Tensor, noisy_ng: Tensor, alpha: float, scale: float) -> Tensor:
    """T_alpha = max(||x - x_0|| - ||x - x_n|| + alpha, 0) of each cell, shape (n,).

    Args:
        scale: distances are divided by it.
    """
    near_n, far_n = (distance(x_ng, copy_ng) / scale for copy_ng in (noise_free_ng, noisy_ng))
    return (near_n - far_n + alpha).clamp_min(0.0)


def distance(x_ng: Tensor, y_ng: Tensor) -> Tensor:
    """Euclidean distance, shape (n,), with a finite gradient at zero."""
    return ((x_ng - y_ng).square().sum(-1) + 1e-12).sqrt()


def gaussian_kl(mu_nd: Tensor, log_var_nd: Tensor, other_mu_nd: Tensor, other_log_var_nd: Tensor) -> Tensor:
    """KL(N(mu, var) || N(other_mu, other_var)) of diagonal Gaussians, shape (n,)."""
    ratio_nd = (log_var_nd - other_log_var_nd).exp()
    shift_nd = (mu_nd - other_mu_nd).square() * (-other_log_var_nd).exp()
    return 0.5 * (ratio_nd + shift_nd - 1.0 - log_var_nd + other_log_var_nd).sum(-1)


def log_likelihood(x_ng: Tensor, out_ng: Tensor, pixels: bool) -> Tensor:
    """R: log p(x|z, 0) of Bernoulli pixels, or of unit-variance Gaussians without their constant; shape (n,)."""
    if pixels:
        return -binary_cross_entropy_with_logits(out_ng, x_ng, reduction="none").sum(-1)
    return -0.5 * (x_ng - out_ng).square().sum(-1)


def discriminator_loss(
    discriminator: Discriminator, x_ng: Tensor, noise_free_ng: Tensor, noisy_ng: Tensor, smoothness: float
) -> tuple[Tensor, Tensor]:
    """Loss of D, which is -V(D, G) plus the R1 penalty, and V(D, G).

    V = E log D(x) + E [log(1 - D(x_0)) + log(1 - D(x_n))] / 2, in which real cells and copies have equal weight. The
    copies are detached, so that G gets no gradient. The R1 penalty is smoothness/2 E ||grad_x D(x)||^2 (Mescheder et
    al. 2018).
    """
    x_ng = x_ng.detach().requires_grad_(smoothness > 0)
    real_n = discriminator(x_ng)
    fakes = [discriminator(copy_ng.detach()) for copy_ng in (noise_free_ng, noisy_ng)]
    value = -softplus(-real_n).mean() - sum(softplus(fake_n).mean() for fake_n in fakes) / 2
    loss = -value
    if smoothness > 0:
        (gradient_ng,) = torch.autograd.grad(real_n.sum(), x_ng, create_graph=True)
        loss = loss + 0.5 * smoothness * gradient_ng.square().sum(-1).mean()
    return loss, value.detach()


def non_saturating_loss(discriminator: Discriminator, noise_free_ng: Tensor, noisy_ng: Tensor) -> Tensor:
    """Non-saturating loss of G, which replaces V: -[log D(x_0) + log D(x_n)] / 2.

    It has the same fixed points as V, and a gradient where D is confident (Goodfellow et al. 2014, section 3).
    """
    fakes = [discriminator(copy_ng) for copy_ng in (noise_free_ng, noisy_ng)]
    return (softplus(-fakes[0]).mean() + softplus(-fakes[1]).mean()) / 2


def latent_divergence(augmenter: Augmenter, posterior: tuple[Tensor, Tensor], noisy_ng: Tensor) -> Tensor:
    """d: KL(q(z|x_n) || q(z|x)), shape (n,)."""
    return gaussian_kl(*augmenter.encode(noisy_ng), *posterior)
