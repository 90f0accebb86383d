"""A VAE-GAN as a :class:`cplmix_ray.models.base.Model`: two networks, two optimisers, alternating updates."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cplmix_ray.collectives.unit_sum import sum_gradients
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN
from cplmix_ray.models.base import Batch, CellBlock, Model, Parts, Report, TrainingContext
from cplmix_ray.models.finite_checks import require_finite
from cplmix_ray.models.schedules import lr_at
from cplmix_ray.models.vaegan.config import VAEGANConfig
from cplmix_ray.models.vaegan.moments import cell_moments
from cplmix_ray.models.vaegan.networks import Augmenter, AugmenterShape, Discriminator
from cplmix_ray.models.vaegan.objective import (
    discriminator_loss,
    latent_divergence,
    log_likelihood,
    non_saturating_loss,
    triplet,
)
from cplmix_ray.models.vaegan.randomness import DISCRIMINATOR, GENERATOR, LATENT, NOISE, generator_for

UNIT = "VAE-GAN"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_NONNEGATIVE = "nonnegative"


def shape_of(config: VAEGANConfig, preparation: Preparation, nonnegative: bool) -> AugmenterShape:
    """Shape of a generator for prepared values.

    Args:
        nonnegative: whether no prepared value is below zero.
    """
    pixels = preparation.kind == "images"
    return AugmenterShape(
        len(preparation.var_names),
        config.model.latent_dim,
        config.model.noise_dim,
        config.model.hidden,
        pixels=pixels,
        nonnegative=nonnegative,
        keep_zeros=config.model.keep_zeros and not pixels,
    )


class VAEGAN(Model):
    """Generator and discriminator, which form one unit; a step updates first the discriminator, then the generator."""

    def __init__(self, config: VAEGANConfig, preparation: Preparation, device: torch.device):
        self.config, self.preparation, self.device = config, preparation, device
        self.units = (0,)

    def start_training(self, context: TrainingContext, saved: Parts | None) -> None:
        config, data, training = self.config, context.data, self.config.training
        moments = cell_moments(data.matrix, data.train_idx)
        self.context, self.distance_scale = context, moments.rms_distance
        nonnegative = data.matrix.statistics.limits[0] >= 0
        shape = shape_of(config, self.preparation, nonnegative)
        self.augmenter = Augmenter(shape, generator_for(config.seed, GENERATOR))
        self.augmenter.initialise_output(torch.from_numpy(moments.mean_g))
        self.discriminator = Discriminator(
            shape.n_features, config.model.discriminator_hidden, generator_for(config.seed, DISCRIMINATOR)
        )
        self.augmenter.to(self.device)
        self.discriminator.to(self.device)
        self.optimisers = {
            "generator": torch.optim.Adam(self.augmenter.parameters(), training.lr, betas=(0.5, 0.99)),
            "discriminator": torch.optim.Adam(
                self.discriminator.parameters(), training.discriminator_lr, betas=(0.5, 0.99)
            ),
        }
        self.random = {
            (purpose, shard): generator_for(config.seed, purpose, self.device, shard)
            for purpose in (LATENT, NOISE)
            for shard in context.groups.shards.held
        }
        if saved is not None:
            self._restore(saved)

    def training_step(self, batch: Batch, step: int) -> Report:
        shards, training = self.context.groups.shards, self.config.training
        lr = lr_at(step, self.context.n_steps, training)
        self.optimisers["generator"].param_groups[0]["lr"] = lr
        self.optimisers["discriminator"].param_groups[0]["lr"] = training.discriminator_lr * (lr / training.lr)
        x_ng = batch.cells.rows(torch.as_tensor(batch.rows)).dense()
        weights, shape = self.config.objective, self.augmenter.shape
        mu_nd, log_var_nd = posterior = self.augmenter.encode(x_ng)
        n = len(x_ng) // len(shards.held)
        eps_nd, noise_nm = self._draw(LATENT, n, shape.latent_dim), self._draw(NOISE, n, shape.noise_dim)
        # Both copies are decoded from one sample of z, so that they differ only by the noise.
        z_nd = mu_nd + (0.5 * log_var_nd).exp() * eps_nd
        out_ng = self.augmenter.masked(self.augmenter.decode(z_nd, torch.zeros_like(noise_nm)), x_ng)
        noise_free_ng = self.augmenter.values(out_ng, x_ng)
        noisy_ng = self.augmenter.values(self.augmenter.decode(z_nd, noise_nm), x_ng)

        value = self._update_discriminator(x_ng, noise_free_ng, noisy_ng, step)
        terms = {
            "fooling": non_saturating_loss(self.discriminator, noise_free_ng, noisy_ng),
            "log_likelihood": log_likelihood(x_ng, out_ng, shape.pixels).mean(),
            "triplet": triplet(x_ng, noise_free_ng, noisy_ng, weights.alpha, self.distance_scale).mean(),
            "divergence": latent_divergence(self.augmenter, posterior, noisy_ng).mean(),
        }
        loss = self._update_generator(terms, step)
        report = {"loss": loss, "value": value, **terms}
        return Report({name: term.detach().view(1) for name, term in report.items()}, settings={"lr": lr})

    def _update_discriminator(self, x_ng: Tensor, noise_free_ng: Tensor, noisy_ng: Tensor, step: int) -> Tensor:
        """One step of the discriminator; returns V(D, G)."""
        loss, value = discriminator_loss(
            self.discriminator, x_ng, noise_free_ng, noisy_ng, self.config.objective.smoothness
        )
        require_finite({"value": value.view(1), "discriminator's loss": loss.view(1)}, self.units, step, UNIT)
        self.optimisers["discriminator"].zero_grad(set_to_none=True)
        (loss * self.context.groups.shards.fraction).backward()
        self._step("discriminator", list(self.discriminator.parameters()))
        return value

    def _update_generator(self, terms: dict[str, Tensor], step: int) -> Tensor:
        """One step of the generator; returns its loss."""
        weights = self.config.objective
        loss = (
            terms["fooling"]
            - weights.fidelity * terms["log_likelihood"]
            + weights.triplet * terms["triplet"]
            + weights.gamma * terms["divergence"]
        )
        require_finite({name: term.view(1) for name, term in terms.items()}, self.units, step, UNIT)
        parameters = list(self.augmenter.parameters())
        # Only for the parameters of the generator, so that those of the discriminator accumulate no gradients.
        gradients = torch.autograd.grad(loss * self.context.groups.shards.fraction, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._step("generator", parameters)
        return loss

    def _step(self, part: str, parameters: Sequence[Tensor]) -> None:
        sum_gradients(parameters, self.context.groups.shards.group)
        if self.config.training.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.config.training.clip)
        self.optimisers[part].step()

    def _draw(self, purpose: str, n: int, width: int) -> Tensor:
        """Standard normal noise for the cells of every shard on this worker."""
        held = self.context.groups.shards.held
        noise = [torch.randn((n, width), generator=self.random[purpose, at], device=self.device) for at in held]
        return noise[0] if len(noise) == 1 else torch.cat(noise)

    def parts(self) -> Parts:
        return {part: {name: t.detach().cpu().clone() for name, t in self._named(part)} for part in self._networks}

    def load_weights(self, saved: Parts) -> None:
        shape = shape_of(self.config, self.preparation, bool(saved["generator"][_NONNEGATIVE]))
        with torch.device("meta"):  # so that sizes are compared with the settings before memory is allocated
            self.augmenter = Augmenter(shape)
            self.discriminator = Discriminator(
                shape.n_features, self.config.model.discriminator_hidden, torch.Generator().manual_seed(0)
            )
        for part, network in self._networks.items():
            weights = {
                name.removeprefix("network/"): tensor.to(self.device)
                for name, tensor in saved[part].items()
                if name.startswith("network/")
            }
            network.load_state_dict(weights, assign=True)
            network.eval()

    @torch.no_grad()
    def infer(self, cells: CellBlock, wanted: Collection[str]) -> dict[str, Tensor]:
        x_ng = cells.rows[MAIN].dense()
        found = {"latent_nd": self.augmenter.encode(x_ng)[0]}
        if "log_likelihood_u" in wanted:
            no_noise_nm = x_ng.new_zeros(len(x_ng), self.augmenter.shape.noise_dim)
            out_ng = self.augmenter.masked(self.augmenter.decode(found["latent_nd"], no_noise_nm), x_ng)
            found["log_likelihood_u"] = log_likelihood(x_ng, out_ng, self.augmenter.shape.pixels).mean().view(1)
        return {name: found[name] for name in wanted}

    @torch.no_grad()
    def decode(self, **latent: Tensor) -> Tensor:
        """Expected cells, shape (1, n, g), for codes ``z`` (n, d) and ``noise`` (n, m), by default zero."""
        z_nd = latent["z"].to(self.device)
        noise_nm = latent.get("noise", z_nd.new_zeros(len(z_nd), self.augmenter.shape.noise_dim)).to(self.device)
        out_ng = self.augmenter.decode(z_nd, noise_nm)
        pixels, nonnegative = self.augmenter.shape.pixels, self.augmenter.shape.nonnegative
        return (torch.sigmoid(out_ng) if pixels else torch.relu(out_ng) if nonnegative else out_ng).unsqueeze(0)

    @property
    def _networks(self) -> dict[str, nn.Module]:
        return {"generator": self.augmenter, "discriminator": self.discriminator}

    def _named(self, part: str) -> Iterator[tuple[str, Tensor]]:
        network, trained = self._networks[part], hasattr(self, "optimisers")
        if not trained or self.context.groups.shards.reports:
            for name, tensor in network.state_dict().items():
                yield f"network/{name}", tensor
            if part == "generator":
                yield _NONNEGATIVE, torch.tensor(self.augmenter.shape.nonnegative)
            for name, parameter in network.named_parameters():
                state = self.optimisers[part].state.get(parameter, {}) if trained else {}
                for moment in _MOMENTS if state else ():
                    yield f"adam/{name}/{moment}", state[moment]
        if part == "generator" and trained:
            for (purpose, shard), generator in self.random.items():
                yield _random_name(purpose, shard), generator.get_state()

    def _restore(self, saved: Parts) -> None:
        for part, network in self._networks.items():
            with torch.no_grad():
                for name, tensor in network.state_dict().items():
                    tensor.copy_(saved[part][f"network/{name}"])
            for name, parameter in network.named_parameters():
                moments = {moment: f"adam/{name}/{moment}" for moment in _MOMENTS}
                if set(moments.values()) <= set(saved[part]):
                    self.optimisers[part].state[parameter] = {
                        moment: saved[part][key].to("cpu" if moment == "step" else self.device, copy=True)
                        for moment, key in moments.items()
                    }
        for (purpose, shard), generator in self.random.items():
            state = saved["generator"].get(_random_name(purpose, shard))
            if state is not None and state.shape == generator.get_state().shape:
                generator.set_state(state)
            else:  # saved on another kind of device, or with fewer shards: same distribution, other numbers
                seed = int(np.random.SeedSequence((self.config.seed, self.context.step)).generate_state(1)[0])
                self.random[purpose, shard] = generator_for(seed, purpose, self.device, shard)


def _random_name(purpose: str, shard: int) -> str:
    return f"generators/{purpose}/{shard}" if shard else f"generators/{purpose}"
