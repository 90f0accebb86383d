"""Every setting of a learned augmenter, which is trained before the arms and then frozen."""

from typing import Literal

from pydantic import Field

from cplmix_ray.config.cells import Input
from cplmix_ray.config.section import Section, Width


class Networks(Section):
    """Generator (encoder and decoder) and discriminator."""

    latent_dim: Width = Field(20, description="Dimensions of the latent code z.")
    noise_dim: Width = Field(10, description="Dimensions of the noise n that the decoder gets beside z.")
    hidden: tuple[Width, ...] = Field(
        (256, 128),
        strict=False,
        min_length=1,
        description="Widths of the encoder's hidden layers; the decoder has them reversed.",
    )
    keep_zeros: bool = Field(
        True, description="Let copies of cells be zero where the cell is; images have no such zeros."
    )
    discriminator_hidden: tuple[Width, ...] = Field(
        (128, 64), strict=False, min_length=1, description="Widths of the discriminator's hidden layers."
    )


class AugmentObjective(Section):
    """The weights of the augmenter's objective; that of the adversarial value is 1."""

    alpha: float = Field(
        0.1,
        ge=0,
        description="Margin by which a noisy copy must be farther from its cell than the noise-free one; 1 is the "
        "typical distance of a cell from the mean of all.",
    )
    gamma: float = Field(0.05, ge=0, description="Weight of the divergence between latent posteriors, well below 1.")
    triplet: float = Field(10.0, ge=0, description="Weight of the triplet term.")
    fidelity: float = Field(
        0.2, ge=0, description="Weight of the noise-free copy's log-likelihood, which is in nats a cell."
    )
    smoothness: float = Field(
        1.0, ge=0, description="Weight of the discriminator's squared gradient on real cells (R1), which steadies it."
    )


class AugmentTraining(Section):
    """Steps, and where they are computed."""

    max_steps: int = Field(3000, ge=1, description="Steps of generator and discriminator, one each.")
    batch_size: int = Field(128, ge=1, description="Cells in a minibatch.")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate for the generator.")
    discriminator_lr: float = Field(5e-4, gt=0, description="Adam's learning rate for the discriminator.")
    log_every: int = Field(20, ge=1, description="Steps between lines in TensorBoard.")
    threads: int | None = Field(None, ge=1, le=1024, description="Threads to compute with; default: all cores.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to compute.")


class AugmentConfig(Section):
    """Settings of one augmenter."""

    input: Input = Input()
    networks: Networks = Networks()
    objective: AugmentObjective = AugmentObjective()
    training: AugmentTraining = AugmentTraining()
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
