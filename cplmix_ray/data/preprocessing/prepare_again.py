"""New cells prepared as the cells of training were."""

from cplmix_ray.data.matrix.base import Matrix
from cplmix_ray.data.preprocessing.genes import columns_of
from cplmix_ray.data.preprocessing.preparation import Preparation, check_finite, prepare, require_counts
from cplmix_ray.data.preprocessing.value_kinds import (
    CENTRED,
    LINEAR,
    WORDS,
    ValueKind,
    hint_of_others,
    recognise_values,
)
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
    at = columns_of(source.var_names, preparation.var_names, source.name, source.adata)
    if preparation.target_sum is None:
        _require_same_kind(source, preparation)
        return prepare(source.matrix.choose(at), preparation)
    if source.matrix.statistics.limits[0] < 0:
        raise InputError(
            f"{source.name} holds negative values, but the model was trained on values that it normalises itself; "
            f"give values of the same kind, with --layer where X holds others."
        )
    _require_same_kind(source, preparation)
    # The library size is that of all genes, as it was in training, so genes are chosen last.
    return prepare(source.matrix, preparation).choose(at)


def _require_same_kind(source: Source, preparation: Preparation) -> None:
    """Refuse values that evidently are of another kind than those of training, such as counts for log-expression."""
    if preparation.values is None:
        return
    now, trained = recognise_values(source.matrix.statistics), preparation.values
    alike: tuple[ValueKind, ...] = next((kinds for kinds in (LINEAR, CENTRED) if trained in kinds), (trained,))
    other_base = now.base is not None and preparation.log_base is not None and now.base != preparation.log_base
    if not now.evident or (now.kind in alike and not other_base):
        return
    base = f" to base {preparation.log_base:.3g}" if other_base else ""
    raise InputError(
        f"{source.name} holds {now}, but the model was trained on {WORDS[trained]}{base}; "
        f"{hint_of_others(source, alike) or 'give values of the same kind, with --layer where X holds others'}."
    )
