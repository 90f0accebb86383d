"""Settings of coupled mixture VAEs."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from cplmix_ray.config.families import register_config
from cplmix_ray.config.names import AugmentationName, CouplingName, LikelihoodName
from cplmix_ray.config.run import RunConfig
from cplmix_ray.config.section import PathText, Section, Width
from cplmix_ray.config.training import Training


class ModelSettings(Section):
    """Settings of the arms."""

    n_categories: PositiveInt | Literal["auto"] = Field(
        10,
        description=(
            "Number of categories K (cell types to find). auto: as many as tests tell apart in the cells before "
            "training; only for cells, with --align-guess above 0."
        ),
    )
    min_cells_per_category: int = Field(
        10,
        ge=0,
        description=(
            "Number of cells below which a category is too small to be relied on: a warning after training names "
            "those that have fewer. It changes no result."
        ),
    )
    overcluster: int = Field(
        1,
        ge=1,
        le=1000,
        description=(
            "Use this many times K categories in the first stage (--align-steps); at its end, the categories "
            "that the arms confuse most often are merged until K remain."
        ),
    )
    n_arms: int = Field(
        2, ge=1, le=1024, description="Number of coupled autoencoders (arms) A; 1 is a plain mixture VAE."
    )
    state_dim: Width = Field(2, description="Number of dimensions d of the continuous state.")
    hidden: tuple[Width, ...] = Field(
        (128, 128), strict=False, description="Widths of the hidden layers of the encoder."
    )
    bottleneck: Width = Field(
        10, description="Width of the encoder's last layer, from which category and state are computed."
    )
    encoder_view: Literal["whole", "content"] = Field(
        "whole",
        description=(
            "whole: the encoder receives the cell or image unchanged. content: images only; the encoder "
            "receives the image content, centred and scaled to one size in a square of half the side length, "
            "and its position and size are passed to the state."
        ),
    )
    batch_norm: bool = Field(True, description="Apply batch normalisation to the hidden layers.")
    input_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the inputs that are dropped (set to zero) at the encoder during training.",
    )
    posterior: Literal["tempered", "softmax"] = Field(
        "tempered",
        description=(
            "tempered: softmax(softmax(logits) / tau), from later code of the authors; its logarithms are bounded, "
            "as the distances between them require. softmax: the plain softmax, for the agreement coupling."
        ),
    )
    tau: float | None = Field(
        None,
        gt=0,
        description="Temperature of the tempered posterior; default: 1/K. The paper's tau is --gumbel-temperature.",
    )
    gumbel_temperature: float = Field(
        1.0, gt=0, description="Temperature of the Gumbel-softmax sample; the tau of the paper, 0.67 for its images."
    )
    likelihood: LikelihoodName = Field(
        "auto",
        description=(
            "Distribution of the decoder's output. auto: bernoulli for images, gaussian for cells. nb "
            "(negative binomial) and zinb (zero-inflated negative binomial) require raw counts."
        ),
    )
    dispersion: Literal["gene", "gene_batch"] = Field(
        "gene",
        description=(
            "Dispersion of the likelihoods nb and zinb. gene: one for each gene. gene_batch: one for each gene and "
            "each value of --batch-key."
        ),
    )
    decoder: Literal["auto", "network", "linear"] = Field(
        "network",
        description=(
            "network: the decoder of the paper, with one network for category and state. linear: every category has "
            "a mean and loadings of the state on the genes, and the state posterior has a closed form; requires the "
            "likelihood gaussian. auto: linear for cells with the likelihood gaussian, network otherwise."
        ),
    )
    reconstruct: Literal["auto", "copy", "cell"] = Field(
        "copy",
        description=(
            "What the decoder reconstructs, and what a linear decoder computes the state from. copy: the arm's copy "
            "of the cell, as in the paper. cell: the cell itself, so that the state does not contain the noise of the "
            "copies. auto: cell with a linear decoder, copy otherwise."
        ),
    )
    state_given_category: bool = Field(True, description="Condition the state posterior on the category.")
    shared_parameters: bool = Field(False, description="Share one set of network weights between all arms.")

    @property
    def n_k(self) -> int:
        """Number of categories K.

        Raises:
            ValueError: it is auto, and the cells have not been seen.
        """
        if self.n_categories == "auto":
            raise ValueError("The number of categories is found in the cells, and is not known yet.")
        return self.n_categories

    @property
    def n_fine(self) -> int:
        """Number of categories of the first stage, before they are merged."""
        return self.overcluster * self.n_k

    @property
    def temperature(self) -> float:
        """tau, or its default 1/K."""
        return 1.0 / self.n_k if self.tau is None else self.tau


class Copies(Section):
    """Augmentations: type-preserving copies of a cell, one for each arm."""

    copies: tuple[AugmentationName, ...] = Field(
        ("auto",),
        strict=False,
        min_length=1,
        description=(
            "Augmentations, applied in this order. auto: neighbours and affine for images (dsprites: affine), "
            "neighbours and gene_dropout for log-expression, neighbours and thinning for counts. none: no "
            "augmentation. neighbours: one of the nearest cells. affine: random rotation, zoom, shift and "
            "shear. centre: move the image content to the centre. move: move it to a random position, without "
            "cutting it off. standardise: centre it and scale it to the same size in all images. deskew: "
            "remove its slant. pose: rotate it as affine does, and give it the position and size of another "
            "image of the minibatch. thinning: keep a random part of the molecules. gene_dropout: set random "
            "genes to zero and divide the others by the kept share. learned: use the augmenter given by --augmenter."
        ),
    )
    augmenter: PathText | None = Field(
        None, description="Folder written by python -m cplmix_ray.augment, for the augmentation 'learned'."
    )
    n_neighbours: int = Field(10, ge=1, description="neighbours: the copy is drawn from this many nearest cells.")
    neighbour_pcs: int = Field(
        50, ge=1, description="neighbours: number of principal components on which distances are computed."
    )
    neighbour_space: Literal["components", "clustering"] = Field(
        "components",
        description=(
            "neighbours: space in which nearest cells are found. components: principal components. clustering: that "
            "of --initial-clustering (cells only). For an ensemble, two cells are near if most of its partitions put "
            "them together; for mixtures, in principal components in units of the variation within categories."
        ),
    )
    rotation: float = Field(15.0, ge=0, description="affine: largest rotation, in degrees.")
    zoom: float = Field(0.15, ge=0, lt=1, description="affine: largest relative change of size.")
    shift: float = Field(0.05, ge=0, lt=1, description="affine: largest shift, as a fraction of the side length.")
    shear: float = Field(0.2, ge=0, lt=1, description="affine: largest shear.")
    stretch: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="affine: largest relative change of width; the height changes by the inverse factor.",
    )
    content_radius: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description=(
            "standardise: root mean square distance of the content from its centre, as a fraction of the side length."
        ),
    )
    thinning_keep: float = Field(0.7, gt=0, le=1, description="thinning: fraction of the molecules that are kept.")
    drop_genes: float = Field(0.2, ge=0, lt=1, description="gene_dropout: fraction of the genes that are set to zero.")
    expression_noise: float = Field(
        0.1, ge=0, description="gene_dropout: standard deviation of the noise added to expressed genes."
    )


class Objective(Section):
    """Weights of the terms of Eq. 7 of Marghi et al. (2021); the defaults are the published objective."""

    coupling: CouplingName = Field(
        "d_sigma",
        description=(
            "Distance between the categorical posteriors of two arms. d_sigma: the published distance. "
            "aitchison: the exact Aitchison distance. euclidean: between probabilities. agreement: -log of "
            "the probability that two arms agree; requires --marginal above 0."
        ),
    )
    lam: float = Field(1.0, ge=0, description="Weight lambda of the coupling between arms.")
    reconstruction: float = Field(
        1.0, ge=0, description="Weight of the reconstruction and of the KL divergence of the state."
    )
    beta: float = Field(1.0, ge=0, description="Weight of KL(q(s|c,x) || p(s|c)) relative to the reconstruction.")
    entropy: float = Field(
        1.0,
        description=(
            "Weight of the entropy H(c|x), which is maximised; 1 in Eq. 7. Values below 0 favour confident assignments."
        ),
    )
    marginal: float = Field(
        0.0,
        ge=0,
        description=(
            "Weight of the entropy of an arm's mean posterior. It favours equal use of all categories or, "
            "with --align-guess, use as frequent as in the initial clustering."
        ),
    )
    guess: float = Field(
        0.0,
        ge=0,
        description="Weight with which the arms are kept close to the initial clustering after the first stage.",
    )
    sigma_floor: float = Field(
        1e-3, gt=0, le=1, description="Smallest standard deviation of a category in the distance d_sigma."
    )


_MIXTURES_UP_TO = 50
"""Categories of which --initial-clustering auto finds mixtures; more have too few cells each, and would take long."""


class Alignment(Section):
    """First stage, in which only the encoders are trained, to agree on the categories; nothing is reconstructed."""

    align_steps: int | float = Field(
        0,
        ge=0,
        description=(
            "Number of steps of the first stage, included in --max-steps, or, if below 1, their share of all steps; "
            "0: no first stage."
        ),
    )
    align_coupling: CouplingName = Field("agreement", description="Coupling of the first stage.")
    align_entropy: float = Field(
        0.0, description="Weight of H(c|x) in the first stage, relative to a coupling of weight 1."
    )
    align_marginal: float = Field(
        1.0,
        ge=0,
        description=(
            "Weight of the entropy of the mean posterior in the first stage, relative to a coupling of weight 1."
        ),
    )
    align_guess: float = Field(
        0.0,
        ge=0,
        description=("Weight with which the encoders learn the initial clustering in the first stage (cells only)."),
    )
    initial_clustering: Literal["auto", "ensemble", "mixtures"] = Field(
        "ensemble",
        description=(
            "ensemble: k-means partitions over several normalisations are combined. auto: mixtures for up to 50 "
            "categories, else ensemble. mixtures: Student-t mixtures are "
            "fitted to the cells and to each arm's half of their molecules (or genes, if there are no counts), and "
            "moved out of local optima by splits and merges; an arm learns the categories of the cells and of its half."
        ),
    )
    mixture_start: Literal["kmeans", "random"] = Field(
        "kmeans",
        description=(
            "Start of the mixtures of --initial-clustering mixtures. random: the nearest of K cells drawn at random."
        ),
    )

    @field_validator("align_steps")
    @classmethod
    def _whole_or_share(cls, value: int | float) -> int | float:
        if value >= 1 and value != int(value):
            raise ValueError("must be a whole number of steps, or a share below 1")
        return int(value) if value >= 1 else value

    def steps(self, n_steps: int) -> int:
        """Number of steps of the first stage in a run of ``n_steps``."""
        if self.align_steps == 0 or self.align_steps >= 1:
            return int(self.align_steps)
        return max(1, round(self.align_steps * n_steps))


class ArmTraining(Training):
    """Number of steps, learning rate, and intervals between outputs."""

    lam_warmup: int = Field(0, ge=0, description="Number of steps over which lambda increases linearly from zero.")


class CplMixVAEConfig(RunConfig):
    """Settings of one coupled run."""

    variable_settings: ClassVar[frozenset[str]] = RunConfig.variable_settings | {
        "objective.lam",
        "objective.beta",
        "model.tau",
        "model.gumbel_temperature",
    }
    # Only the path of the augmenter; its content is compared by checksum.
    resumable_settings: ClassVar[frozenset[str]] = frozenset({"copies.augmenter", "model.min_cells_per_category"})

    family: Literal["cplmixvae"] = Field("cplmixvae", description="Model family.")
    copies: Copies = Copies()
    model: ModelSettings = ModelSettings()
    objective: Objective = Objective()
    alignment: Alignment = Alignment()
    training: ArmTraining = ArmTraining()

    @property
    def clustered_by(self) -> Literal["ensemble", "mixtures"] | None:
        """Method of the initial clustering; None if no setting uses one."""
        if not self.guesses and self.copies.neighbour_space == "components":
            return None
        if self.alignment.initial_clustering != "auto":
            return self.alignment.initial_clustering
        found = self.model.n_categories == "auto"
        return "mixtures" if found or self.model.n_k <= _MIXTURES_UP_TO else "ensemble"

    @property
    def guesses(self) -> bool:
        """Whether the arms learn the initial clustering."""
        return self.alignment.align_guess > 0 or self.objective.guess > 0

    @model_validator(mode="after")
    def _check_augmentations(self) -> "CplMixVAEConfig":
        names = self.copies.copies
        if len(names) > 1 and ({"auto", "none"} & set(names)):
            raise ValueError(
                "copies: 'auto' and 'none' cannot be combined with other augmentations; give one of them alone"
            )
        if "learned" in names and self.copies.augmenter is None:
            raise ValueError("copies: 'learned' requires a trained augmenter; give its folder with --augmenter")
        return self

    @model_validator(mode="after")
    def _check_stages(self) -> "CplMixVAEConfig":
        if self.model.overcluster > 1 and self.alignment.align_steps == 0:
            raise ValueError(
                "model.overcluster: categories above K are merged at the end of the first stage, and there is none; "
                "set align_steps above 0, or overcluster to 1"
            )
        if self.alignment.align_guess > 0 and self.alignment.align_steps == 0:
            raise ValueError(
                "alignment.align_guess: the initial clustering is learned in the first stage, and there is none; set "
                "align_steps above 0, or align_guess to 0"
            )
        if self.guesses and self.model.overcluster > 1:
            raise ValueError(
                "alignment.align_guess: the initial clustering has K categories and cannot be combined with "
                "over-clustering; set overcluster to 1, or align_guess and guess to 0"
            )
        return self

    @model_validator(mode="after")
    def _check_categories(self) -> "CplMixVAEConfig":
        if self.model.n_categories == "auto" and (not self.guesses or self.clustered_by != "mixtures"):
            raise ValueError(
                "model.n_categories: auto finds the types of cells with the initial clustering 'mixtures', which these "
                "settings do not use; give a number larger than expected, and reduce it with cplmix prune"
            )
        return self


register_config(CplMixVAEConfig)
