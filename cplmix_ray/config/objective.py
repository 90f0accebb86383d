"""Settings of what is optimised, in the first stage and after it."""

from typing import Literal

from pydantic import Field

from cplmix_ray.config.section import Section

CouplingName = Literal["d_sigma", "aitchison", "euclidean", "agreement"]


class Objective(Section):
    """The terms of Eq. 7 of Marghi et al. and their weights; the defaults are the objective as published."""

    coupling: CouplingName = Field(
        "d_sigma",
        description="d_sigma: the published distance. aitchison: the exact Aitchison distance. euclidean: between "
        "probabilities. agreement: -log of the chance that two arms agree; it needs --marginal.",
    )
    lam: float = Field(1.0, ge=0, description="Coupling weight lambda between the arms.")
    reconstruction: float = Field(1.0, ge=0, description="Weight of the reconstruction and of the state's KL.")
    beta: float = Field(1.0, ge=0, description="Weight of KL(q(s|c,x) || p(s|c)) within that.")
    entropy: float = Field(
        1.0, description="Weight of H(c|x), which is maximised; Eq. 7 has 1, less than 0 asks for crisp categories."
    )
    marginal: float = Field(
        0.0,
        ge=0,
        description="Weight of the entropy of an arm's mean posterior: asks for even use of categories, or, "
        "with --align-guess, for use as often as guessed.",
    )
    guess: float = Field(
        0.0, ge=0, description="Weight with which the arms keep to the first guess after the first stage."
    )
    sigma_floor: float = Field(1e-3, gt=0, le=1, description="Smallest s.d. of a category in the distance d_sigma.")


class Alignment(Section):
    """A first stage in which the encoders alone come to agree on the categories, before anything is reconstructed."""

    align_steps: int = Field(0, ge=0, description="Steps of the first stage, part of --max-steps; 0: no such stage.")
    align_coupling: CouplingName = Field("agreement", description="Coupling of the first stage.")
    align_entropy: float = Field(0.0, description="Weight of H(c|x) in the first stage, for a coupling of weight 1.")
    align_marginal: float = Field(
        1.0, ge=0, description="Weight of the mean posterior's entropy in the first stage, for a coupling of weight 1."
    )
    align_guess: float = Field(
        0.0,
        ge=0,
        description="Weight with which the encoders learn, in the first stage, the categories that an ensemble of "
        "k-means guesses (cells only).",
    )
