"""Every setting of a run, with its type, its bounds and the words that `--help` shows.

YAML files nest the settings by section (``model: {n_arms: 4}``); the command line uses the bare name
(``--n-arms 4``), so names are unique across sections.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

CopyKind = Literal[
    "auto",
    "none",
    "affine",
    "centre",
    "standardise",
    "move",
    "pose",
    "thinning",
    "gene_dropout",
    "neighbours",
    "learned",
]
LikelihoodName = Literal["auto", "bernoulli", "gaussian", "nb", "zinb"]
CouplingName = Literal["d_sigma", "aitchison", "euclidean", "agreement"]


class Section(BaseModel):
    """A group of settings: immutable, and closed to names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Input(Section):
    """Which cells, and how they are prepared."""

    data: str = Field(
        "digits",
        description="An .h5ad or .csv file of cells, an .npz file of images, 'digits', or 'dsprites', which is drawn. "
        "Several .csv files of the same genes stand side by side with commas between them.",
    )
    metadata: str | None = Field(
        None,
        description="CSV file with what is known of the cells, a line for each, by the cell's name in the column "
        "sample_name or else the first; its columns join obs, and cells without a line are left out.",
    )
    subset: int | None = Field(None, ge=1, description="Take this many cells, drawn by the seed; default: all.")
    layer: str | None = Field(None, description="Layer of the .h5ad to read in place of X.")
    labels_key: str | None = Field(None, description="Column of obs with known types; used for scores only.")
    state_key: tuple[str, ...] = Field(
        (), description="Columns of obs with a known continuous state; used for scores only."
    )
    genes: str | None = Field(
        None, description="File with a gene name on each line: train on these alone. Library sizes are of all genes."
    )
    normalise: Literal["auto", "log1p", "none"] = Field(
        "auto",
        description="log1p: scale each cell to --target-sum counts, then log(1 + x). "
        "auto: do so where X holds raw counts, or values too large for logarithms, and the likelihood is gaussian, "
        "and say so.",
    )
    target_sum: float = Field(1e4, gt=0, description="Library size to which normalised cells are scaled.")
    hvg: int | None = Field(None, ge=2, description="Keep this many highly variable genes (needs scanpy).")
    val_fraction: float = Field(0.1, ge=0, lt=1, description="Share of cells kept out of training.")


class Copies(Section):
    """How the type-preserving copies are made that the arms see in place of the cells."""

    copies: tuple[CopyKind, ...] = Field(
        ("auto",),
        min_length=1,
        description="Kinds of copies, applied in this order. auto: neighbours and affine for images (dsprites: "
        "affine), neighbours and gene_dropout for log-expression, neighbours and thinning for counts. "
        "centre and move put what an image shows in its middle, or anywhere in it, whole; standardise puts it in the "
        "middle at the same size in all images. pose turns it as affine does, and gives it the place and size "
        "that another image of the minibatch has. learned: by --augmenter.",
    )
    augmenter: str | None = Field(
        None, description="Learned copies: the folder that python -m cplmix_ray.augment wrote."
    )
    n_neighbours: int = Field(10, ge=1, description="A neighbour copy is one of this many nearest cells.")
    neighbour_pcs: int = Field(50, ge=1, description="Principal components on which cells are near.")
    neighbour_space: Literal["components", "ensemble"] = Field(
        "components",
        description="Where cells are near: on principal components, or together in most partitions of an ensemble of "
        "k-means over several normalisations (cells only).",
    )
    rotation: float = Field(15.0, ge=0, description="Affine copies: largest rotation, in degrees.")
    zoom: float = Field(0.15, ge=0, lt=1, description="Affine copies: largest relative change of size.")
    shift: float = Field(0.05, ge=0, lt=1, description="Affine copies: largest shift, as a share of the side.")
    shear: float = Field(0.2, ge=0, lt=1, description="Affine copies: largest shear.")
    content_radius: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="Standardise: r.m.s. distance of the content from its middle, as a share of the side.",
    )
    thinning_keep: float = Field(0.7, gt=0, le=1, description="Thinning: share of the molecules that is kept.")
    drop_genes: float = Field(0.2, ge=0, lt=1, description="Gene dropout: share of the genes set to zero.")
    expression_noise: float = Field(0.1, ge=0, description="Gene dropout: s.d. of noise on expressed genes.")


class Model(Section):
    """The arms."""

    n_categories: int = Field(10, ge=1, description="Number of categories K (cell types to look for).")
    overcluster: int = Field(
        1,
        ge=1,
        description="A first stage (--align-steps) looks for this many times K fine categories; at its end those that "
        "the arms confuse most are merged to K.",
    )
    n_arms: int = Field(2, ge=1, description="Number of coupled autoencoders A; 1 is a plain mixture VAE.")
    state_dim: int = Field(2, ge=1, description="Dimensions d of the continuous state.")
    hidden: tuple[PositiveInt, ...] = Field((128, 128), description="Widths of the encoder's hidden layers.")
    bottleneck: int = Field(10, ge=1, description="Width of the layer from which category and state are read.")
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
        0.0, ge=0, description="Weight of the entropy of an arm's mean posterior: asks for even use of categories."
    )
    sigma_floor: float = Field(1e-3, gt=0, description="Smallest s.d. of a category in the distance d_sigma.")


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


class Training(Section):
    """Steps, schedules, and what is written when."""

    max_steps: int | None = Field(None, ge=1, description="Stop after this many steps.")
    epochs: int | None = Field(None, ge=1, description="Stop after this many passes over the training cells.")
    batch_size: int = Field(256, ge=1, description="Cells in a minibatch.")
    lr: float = Field(3e-3, gt=0, description="Adam's learning rate.")
    lr_schedule: Literal["constant", "cosine"] = Field("constant", description="How the learning rate ends.")
    lr_warmup: int = Field(0, ge=0, description="Steps over which the learning rate rises from zero.")
    lam_warmup: int = Field(0, ge=0, description="Steps over which lambda rises linearly from zero.")
    clip: float | None = Field(None, gt=0, description="Largest gradient norm of an arm.")
    log_every: int = Field(20, ge=1, description="Steps between lines in TensorBoard.")
    evaluate_every: int = Field(200, ge=1, description="Steps between scores on the validation cells.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints stay.")

    def steps(self, n_train: int) -> int:
        """Steps to train: max_steps or epochs, whichever ends first; 2,000 where neither is given."""
        bounds = [] if self.max_steps is None else [self.max_steps]
        if self.epochs is not None:
            bounds.append(self.epochs * max(1, n_train // min(self.batch_size, n_train)))
        return min(bounds, default=2000)


class Placement(Section):
    """Where the arms run."""

    engine: Literal["auto", "local", "ray", "ray_train"] = Field(
        "auto",
        description="local: all arms in this process. ray: arms on Ray actors. ray_train: on workers of Ray Train, for "
        "long runs on clusters whose machines may be taken away. auto chooses local or ray and says why.",
    )
    arms_per_worker: int | None = Field(None, ge=1, description="Arms packed on one Ray actor.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the arms compute.")
    threads: int | None = Field(
        None, ge=1, description="Threads of a worker; default: 1 on a Ray actor, all cores in the local engine."
    )
    ray_address: str | None = Field(None, description="Ray cluster to join; default: RAY_ADDRESS, else a local one.")
    cluster_grows_to: int | None = Field(
        None,
        ge=1,
        description="Devices that an autoscaling cluster can come to have: GPUs, or CPU cores with --device cpu. "
        "Default: those that it has now.",
    )
    collective_timeout: float = Field(
        120.0, gt=0, description="Seconds before a silent arm is given up, or devices that are not there."
    )
    max_failures: int = Field(
        3, ge=0, description="How often training starts again by itself after a worker or a machine was lost."
    )
    train_storage: str | None = Field(
        None,
        description="Engine ray_train: folder that all machines share, or an address such as s3://bucket/folder, in "
        "which Ray Train keeps its checkpoints; default: a temporary folder, on one machine.",
    )


class Config(Section):
    """Settings of one coupled run."""

    input: Input = Input()
    copies: Copies = Copies()
    model: Model = Model()
    objective: Objective = Objective()
    alignment: Alignment = Alignment()
    training: Training = Training()
    placement: Placement = Placement()
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")

    @property
    def ensemble_of(self) -> int | None:
        """For how many categories partitions of the cells are asked for; None where they are not."""
        asked = self.copies.neighbour_space == "ensemble" or self.alignment.align_guess > 0
        return self.model.n_categories if asked else None

    @model_validator(mode="after")
    def _one_kind_of_nothing(self) -> "Config":
        kinds = self.copies.copies
        if len(kinds) > 1 and ({"auto", "none"} & set(kinds)):
            raise ValueError("copies: 'auto' and 'none' stand alone")
        if "learned" in kinds and self.copies.augmenter is None:
            raise ValueError("copies: 'learned' needs --augmenter with the folder of a trained augmenter")
        return self

    @model_validator(mode="after")
    def _stages_that_can_be(self) -> "Config":
        if self.model.overcluster > 1 and self.alignment.align_steps == 0:
            raise ValueError("model.overcluster: fine categories are merged after a first stage; set align_steps")
        if self.alignment.align_guess > 0 and (self.alignment.align_steps == 0 or self.model.overcluster > 1):
            raise ValueError("alignment.align_guess: it needs align_steps, and an overcluster of 1")
        return self
