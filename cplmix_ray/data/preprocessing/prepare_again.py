"""New cells prepared as the cells of training were."""

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import Preparation, check_finite, prepare, require_counts
from cplmix_ray.data.source import Source
from cplmix_ray.utils.errors import InputError


def prepare_again(source: Source, preparation: Preparation, likelihood: str = "count") -> Matrix:
    """Prepare cells as those of training were.

    Args:
        likelihood: what to call the likelihood in messages where it needs counts.

    Raises:
        InputError: genes are missing, or the values do not fit.
    """
    if (source.image_shape is None) != (preparation.image_shape is None):
        kind = "images" if preparation.image_shape else "cells"
        raise InputError(f"The model was trained on {kind}, and {source.name} holds something else.")
    if source.image_shape != preparation.image_shape:
        raise InputError(
            f"The model was trained on images of {preparation.image_shape} pixels (height, width), and "
            f"{source.name} holds images of {source.image_shape}."
        )
    check_finite(source.matrix, source)
    if preparation.kind == "counts":
        require_counts(source.matrix, source, likelihood)
    at = columns_of(source.adata.var_names, preparation.var_names, source.name)
    if preparation.target_sum is None:
        return prepare(source.matrix.choose(at), preparation)
    if source.matrix.statistics.limits[0] < 0:
        raise InputError(
            f"{source.name} holds negative values, but the model was trained on values that it normalises itself; "
            f"give values of the same kind, with --layer where X holds others."
        )
    # The library size is that of all genes, as it was in training, so genes are chosen last.
    return prepare(source.matrix, preparation).choose(at)
