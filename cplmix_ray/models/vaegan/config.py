"""Settings of the VAE-GAN that learns type-preserving augmentations."""

from typing import Any, Literal

from pydantic import Field, model_validator

from cplmix_ray.config.families import register_config
from cplmix_ray.config.run import RunConfig
from cplmix_ray.config.section import Section, Width
from cplmix_ray.config.training import Training


class NetworkSettings(Section):
    """Networks of the augmenter: generator (encoder and decoder) and discriminator."""

    latent_dim: Width = Field(20, description="Number of dimensions of the latent code z.")
    noise_dim: Width = Field(
        10, description="Number of dimensions of the noise n that the decoder receives together with z."
    )
    hidden: tuple[Width, ...] = Field(
        (256, 128),
        strict=False,
        min_length=1,
        description="Widths of the hidden layers of the encoder; the decoder has the same widths in reverse order.",
    )
    keep_zeros: bool = Field(True, description="Set a copy to zero at the genes where its cell is zero (cells only).")
    discriminator_hidden: tuple[Width, ...] = Field(
        (128, 64), strict=False, min_length=1, description="Widths of the hidden layers of the discriminator."
    )


class VAEGANObjective(Section):
    """Weights of the terms of the augmenter's objective; the adversarial term has weight 1."""

    alpha: float = Field(
        0.1,
        ge=0,
        description=(
            "Margin of the triplet term: a noisy copy must be farther from its cell than the noise-free copy "
            "by at least this much; 1 is the typical distance between a cell and the mean of all cells."
        ),
    )
    gamma: float = Field(
        0.05, ge=0, description="Weight of the divergence between the latent posteriors; should be well below 1."
    )
    triplet: float = Field(10.0, ge=0, description="Weight of the triplet term.")
    fidelity: float = Field(
        0.2, ge=0, description="Weight of the log-likelihood of the noise-free copy, in nats per cell."
    )
    smoothness: float = Field(
        1.0,
        ge=0,
        description=(
            "Weight of the squared gradient of the discriminator on real cells (R1 penalty), which stabilises "
            "its training."
        ),
    )


class VAEGANTraining(Training):
    """Number of steps, learning rates, and intervals between outputs."""

    max_steps: int | None = Field(
        3000, ge=1, description="Number of training steps; each updates the generator and the discriminator once."
    )
    batch_size: int = Field(128, ge=1, description="Number of cells in a minibatch.")
    lr: float = Field(1e-3, gt=0, description="Learning rate of Adam for the generator.")
    discriminator_lr: float = Field(5e-4, gt=0, description="Learning rate of Adam for the discriminator.")


class VAEGANConfig(RunConfig):
    """Settings of one augmenter, a VAE-GAN that learns augmentations for a later coupled run."""

    family: Literal["vaegan"] = Field("vaegan", description="Model family.")
    model: NetworkSettings = NetworkSettings()
    objective: VAEGANObjective = VAEGANObjective()
    training: VAEGANTraining = VAEGANTraining()

    @model_validator(mode="before")
    @classmethod
    def _from_older_file(cls, tree: Any) -> Any:
        """Accept files of older versions: the section ``networks`` is now ``model``; ``threads`` and ``device`` have
        moved from ``training`` to ``placement``."""
        if not isinstance(tree, dict):
            return tree
        tree = dict(tree)
        if "networks" in tree and "model" not in tree:
            tree["model"] = tree.pop("networks")
        training = tree.get("training")
        if isinstance(training, dict) and {"threads", "device"} & set(training):
            moved = {name: training[name] for name in ("threads", "device") if name in training}
            tree["training"] = {name: value for name, value in training.items() if name not in moved}
            tree["placement"] = {**moved, **(tree.get("placement") or {})}
        return tree

    @model_validator(mode="after")
    def _full_precision(self) -> "VAEGANConfig":
        if self.placement.precision != "float32":
            raise ValueError(
                f"placement.precision: a vaegan is not trained in {self.placement.precision}; leave it at float32"
            )
        return self


register_config(VAEGANConfig)
