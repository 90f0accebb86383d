"""Settings of the data set and its preparation."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from cplmix_ray.config.section import PathText, Section

LARGEST_LIBRARY = 1e12
"""Largest library size to which cells can be scaled."""


class Input(Section):
    """The data set and its preparation."""

    data: PathText = Field(
        "digits",
        description=(
            "File of cells (.h5ad, .zarr, 10x .h5, folder with matrix.mtx, .loom, .h5mu or .csv) or of images "
            "(.npz), or 'digits' (included in scikit-learn), or 'dsprites' (generated). Several .csv files with the "
            "same genes can be joined with commas."
        ),
    )
    metadata: PathText | None = Field(
        None,
        description=(
            "CSV file with one row per cell, matched by the cell name in the column sample_name (or in the "
            "first column if there is none). Its columns are added to obs; cells without a row are excluded."
        ),
    )
    subset: int | None = Field(
        None, ge=1, description="Use only this many cells, drawn with --seed; default: all cells."
    )
    backed: Literal["auto", "yes", "no"] = Field(
        "auto",
        description=(
            "Keep the matrix of an .h5ad on disk and read it in blocks during training, with bounded memory. "
            "auto: do so if it would take more than a quarter of the free memory."
        ),
    )
    layer: str | None = Field(
        None,
        description="Layer of the .h5ad to read instead of X; raw: adata.raw, which may have more genes.",
    )
    labels_key: str | None = Field(None, description="Column of obs with known types; used for scores only.")
    state_key: tuple[str, ...] = Field(
        (), strict=False, description="Columns of obs with a known continuous state; used for scores only."
    )
    batch_key: str | None = Field(
        None,
        description=(
            "Column of obs with the batch of each cell (sample, donor, technology, condition), whose effect is removed "
            "from categories and states: the decoder receives it, a cell may be replaced by cells of other batches, "
            "and the initial clustering is corrected for it."
        ),
    )
    covariates: tuple[str, ...] = Field(
        (),
        strict=False,
        description=(
            "Further columns of obs that the decoder receives: numbers are continuous, all others categorical. The "
            "initial clustering is corrected for the categorical ones."
        ),
    )
    genes: PathText | None = Field(
        None,
        description=(
            "Text file with one gene name per line; only these genes are used. Library sizes are computed "
            "from all genes."
        ),
    )
    normalise: Literal["auto", "log1p", "none"] = Field(
        "auto",
        description=(
            "log1p: scale each cell to --target-sum counts, then log(1 + x). none: no normalisation. auto: "
            "log1p for raw counts and for other expression that is no logarithm (CPM, TPM, proportions), none for "
            "log-expression, scaled values and residuals; what was found and done is printed."
        ),
    )
    target_sum: float | Literal["median"] = Field(
        1e4,
        description=(
            "Library size to which cells are scaled. median: the median of the cells' totals over all genes, cells "
            "without any left out; the number is printed and recorded. No effect on values that are not normalised."
        ),
    )
    hvg: Annotated[int, Field(ge=2)] | Literal["auto", "all"] | None = Field(
        None,
        description=(
            "Keep this many highly variable genes. all: all genes. Default: the genes marked in the "
            "column highly_variable of var if there is one, else all; auto: else the 2,000 most variable. --genes "
            "comes before such a column."
        ),
    )
    val_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Fraction of cells held out for validation; at most 20,000 cells if the data stay on disk.",
    )

    @field_validator("target_sum", mode="before")
    @classmethod
    def _number_or_median(cls, value: Any) -> Any:
        """One sentence for a value that is neither, where a union would give one for each of its members."""
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST_LIBRARY
        if not number and value != "median":
            message = f"Input should be a number above 0 and at most {LARGEST_LIBRARY:g}, or median"
            raise PydanticCustomError("number_or_median", message)
        return value
