"""Settings of the arms."""

from typing import Literal

from pydantic import Field

from cplmix_ray.config.section import Section, Width

Precision = Literal["float32", "bfloat16"]
LikelihoodName = Literal["auto", "bernoulli", "gaussian", "nb", "zinb"]


class Model(Section):
    """The arms."""

    n_categories: int = Field(10, ge=1, description="Number of categories K (cell types to look for).")
    overcluster: int = Field(
        1,
        ge=1,
        le=1000,
        description="A first stage (--align-steps) looks for this many times K fine categories; at its end those that "
        "the arms confuse most are merged to K.",
    )
    n_arms: int = Field(2, ge=1, le=1024, description="Number of coupled autoencoders A; 1 is a plain mixture VAE.")
    state_dim: Width = Field(2, description="Dimensions d of the continuous state.")
    hidden: tuple[Width, ...] = Field((128, 128), strict=False, description="Widths of the encoder's hidden layers.")
    bottleneck: Width = Field(10, description="Width of the layer from which category and state are read.")
    encoder_view: Literal["whole", "content"] = Field(
        "whole",
        description="whole: the encoder sees the cell or image as it is. content: it sees what an image shows, in the "
        "middle of a square of half the side and always of one size; where it was and how large goes to the state.",
    )
    batch_norm: bool = Field(True, description="Normalise hidden layers over the minibatch.")
    input_dropout: float = Field(0.0, ge=0, lt=1, description="Share of inputs hidden from the encoder.")
    posterior: Literal["tempered", "softmax"] = Field(
        "tempered",
        description="tempered: softmax(softmax(logits) / tau), whose logarithms are bounded, as distances between "
        "them need. softmax: the plain softmax, for the agreement coupling.",
    )
    tau: float | None = Field(None, gt=0, description="Temperature of the tempered posterior; default 1/K.")
    gumbel_temperature: float = Field(1.0, gt=0, description="Temperature of the Gumbel-softmax sample.")
    likelihood: LikelihoodName = Field(
        "auto", description="auto: bernoulli for images, gaussian for cells; nb and zinb need raw counts."
    )
    state_given_category: bool = Field(True, description="Let the state posterior depend on the category.")
    shared_parameters: bool = Field(False, description="One set of network weights for all arms.")

    @property
    def n_fine(self) -> int:
        """Fine categories of the first stage."""
        return self.overcluster * self.n_categories

    @property
    def temperature(self) -> float:
        """tau, or its default 1/K."""
        return 1.0 / self.n_categories if self.tau is None else self.tau
