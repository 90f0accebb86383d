"""Settings of the cells, and of the copies of them that the arms see."""

from typing import Literal

from pydantic import Field

from cplmix_ray.config.section import Section

CopyKind = Literal[
    "auto",
    "none",
    "affine",
    "centre",
    "standardise",
    "deskew",
    "move",
    "pose",
    "thinning",
    "gene_dropout",
    "neighbours",
    "learned",
]


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
    backed: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Leave the matrix of an .h5ad on disk and read it in blocks while training, at a bounded use of "
        "memory. auto: where it would take more than a quarter of the free memory.",
    )
    layer: str | None = Field(None, description="Layer of the .h5ad to read in place of X.")
    labels_key: str | None = Field(None, description="Column of obs with known types; used for scores only.")
    state_key: tuple[str, ...] = Field(
        (), strict=False, description="Columns of obs with a known continuous state; used for scores only."
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
    target_sum: float = Field(1e4, gt=0, le=1e12, description="Library size to which normalised cells are scaled.")
    hvg: int | None = Field(None, ge=2, description="Keep this many highly variable genes (needs scanpy).")
    val_fraction: float = Field(
        0.1, ge=0, lt=1, description="Share of cells kept out of training; of those on disk, 20,000 at most."
    )


class Copies(Section):
    """How the type-preserving copies are made that the arms see in place of the cells."""

    copies: tuple[CopyKind, ...] = Field(
        ("auto",),
        strict=False,
        min_length=1,
        description="Kinds of copies, applied in this order. auto: neighbours and affine for images (dsprites: "
        "affine), neighbours and gene_dropout for log-expression, neighbours and thinning for counts. "
        "centre and move put what an image shows in its middle, or anywhere in it, whole; standardise puts it in the "
        "middle at the same size in all images; deskew makes it upright. pose turns it as affine does, and gives it "
        "the place and size that another image of the minibatch has. learned: by --augmenter.",
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
    stretch: float = Field(
        0.0, ge=0, lt=1, description="Affine copies: largest relative change of width, with the inverse of height."
    )
    content_radius: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="Standardise: r.m.s. distance of the content from its middle, as a share of the side.",
    )
    thinning_keep: float = Field(0.7, gt=0, le=1, description="Thinning: share of the molecules that is kept.")
    drop_genes: float = Field(0.2, ge=0, lt=1, description="Gene dropout: share of the genes set to zero.")
    expression_noise: float = Field(0.1, ge=0, description="Gene dropout: s.d. of noise on expressed genes.")
