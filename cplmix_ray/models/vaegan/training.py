"""Training of an augmenter: one step of the discriminator, one of the generator, in turn."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cplmix_ray.config.augment import AugmentConfig
from cplmix_ray.data.source import Values
from cplmix_ray.data.training_set import dense_rows
from cplmix_ray.models.vaegan.networks import Augmenter, AugmenterShape, Discriminator
from cplmix_ray.models.vaegan.objective import (
    discriminator_loss,
    fooling_loss,
    latent_divergence,
    log_likelihood,
    triplet,
)
from cplmix_ray.models.vaegan.randomness import DISCRIMINATOR, GENERATOR, LATENT, NOISE, generator_for, minibatches
from cplmix_ray.utils.errors import TrainingError

Rows = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Spread:
    """Where the training cells lie: their mean (g,), and their root mean square distance from it."""

    mean_g: np.ndarray
    unit: float


def spread_of(values_ng: Values, train_idx: np.ndarray) -> Spread:
    """Mean and spread over the training cells, read in blocks so that sparse data stays sparse."""
    n, g = len(train_idx), values_ng.shape[1]
    total_g, squares = np.zeros(g), 0.0
    for at in range(0, n, 4096):
        block = dense_rows(values_ng, train_idx[at : at + 4096]).astype(np.float64)
        total_g += block.sum(0)
        squares += float(np.square(block).sum())
    mean_g = total_g / n
    variance = max(squares / n - float(np.square(mean_g).sum()), 0.0)
    return Spread(mean_g.astype(np.float32), float(np.sqrt(variance)) or 1.0)


class Rivals:
    """Generator and discriminator with their optimisers and their noise."""

    def __init__(self, config: AugmentConfig, shape: AugmenterShape, spread: Spread, device: torch.device):
        self.config, self.unit, self.device = config, spread.unit, device
        self.augmenter = Augmenter(shape, generator_for(config.seed, GENERATOR))
        self.augmenter.start_at(torch.from_numpy(spread.mean_g))
        self.discriminator = Discriminator(
            shape.n_features, config.networks.discriminator_hidden, generator_for(config.seed, DISCRIMINATOR)
        )
        self.augmenter.to(device)
        self.discriminator.to(device)
        training = config.training
        self.for_augmenter = torch.optim.Adam(self.augmenter.parameters(), training.lr, betas=(0.5, 0.99))
        self.for_discriminator = torch.optim.Adam(
            self.discriminator.parameters(), training.discriminator_lr, betas=(0.5, 0.99)
        )
        self.latent, self.noise = (generator_for(config.seed, purpose, device) for purpose in (LATENT, NOISE))

    def step(self, x_ng: Tensor) -> dict[str, Tensor]:
        """One step of either; returns the terms of the objective, means over the minibatch."""
        weights, shape, n = self.config.objective, self.augmenter.shape, len(x_ng)
        mu_nd, log_var_nd = posterior = self.augmenter.encode(x_ng)
        eps_nd = torch.randn((n, shape.latent_dim), generator=self.latent, device=self.device)
        noise_nm = torch.randn((n, shape.noise_dim), generator=self.noise, device=self.device)
        # Both copies come from one code, so that they differ by the noise alone.
        z_nd = mu_nd + (0.5 * log_var_nd).exp() * eps_nd
        out_ng = self.augmenter.masked(self.augmenter.decode(z_nd, torch.zeros_like(noise_nm)), x_ng)
        noise_free_ng = self.augmenter.values(out_ng, x_ng)
        noisy_ng = self.augmenter.values(self.augmenter.decode(z_nd, noise_nm), x_ng)

        value = self.improve_discriminator(x_ng, noise_free_ng, noisy_ng)
        terms = {
            "fooling": fooling_loss(self.discriminator, noise_free_ng, noisy_ng),
            "log_likelihood": log_likelihood(x_ng, out_ng, shape.pixels).mean(),
            "triplet": triplet(x_ng, noise_free_ng, noisy_ng, weights.alpha, self.unit).mean(),
            "divergence": latent_divergence(self.augmenter, posterior, noisy_ng).mean(),
        }
        self.improve_augmenter(terms)
        return {"value": value, **{name: term.detach() for name, term in terms.items()}}

    def improve_discriminator(self, x_ng: Tensor, noise_free_ng: Tensor, noisy_ng: Tensor) -> Tensor:
        """One step of D up V(D, G); G stays. Returns V."""
        loss, value = discriminator_loss(
            self.discriminator, x_ng, noise_free_ng, noisy_ng, self.config.objective.smoothness
        )
        self.for_discriminator.zero_grad(set_to_none=True)
        loss.backward()
        self.for_discriminator.step()
        return value

    def improve_augmenter(self, terms: dict[str, Tensor]) -> None:
        """One step of G down its objective; D stays."""
        weights = self.config.objective
        loss = (
            terms["fooling"]
            - weights.fidelity * terms["log_likelihood"]
            + weights.triplet * terms["triplet"]
            + weights.gamma * terms["divergence"]
        )
        parameters = list(self.augmenter.parameters())
        # Only G's own: D's parameters take no gradient from what G does.
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = slope
        self.for_augmenter.step()


@dataclass(frozen=True)
class TrainedAugmenter:
    """What training ends with."""

    augmenter: Augmenter
    spread: Spread


def train_augmenter(
    config: AugmentConfig, values_ng: Values, train_idx: np.ndarray, shape: AugmenterShape, device: torch.device
) -> Generator[tuple[int, dict[str, float]], None, TrainedAugmenter]:
    """Train from the seed.

    Yields:
        The step and the terms of the objective, every ``log_every`` steps and at the end.

    Raises:
        TrainingError: a term is not finite.
    """
    spread = spread_of(values_ng, train_idx)
    rivals, training = Rivals(config, shape, spread, device), config.training
    batches = minibatches(train_idx, training.batch_size, training.max_steps, config.seed)
    for step, rows in enumerate(batches, start=1):
        terms = rivals.step(torch.from_numpy(dense_rows(values_ng, rows)).to(device))
        if step % training.log_every == 0 or step == training.max_steps:
            seen = {name: float(term) for name, term in terms.items()}
            for name, term in seen.items():
                if not np.isfinite(term):
                    raise TrainingError(
                        f"The augmenter's {name} is not finite at step {step}; lower --lr and --discriminator-lr, or "
                        f"look for extreme values in the data."
                    )
            yield step, seen
    return TrainedAugmenter(rivals.augmenter.eval(), spread)
