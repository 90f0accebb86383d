"""Settings with every 'auto' replaced, once, by what it means for the data."""

from cplmix_ray.config import RunConfig
from cplmix_ray.data.training_set import TrainingSet
from cplmix_ray.models.registry import family_of


def resolve_settings(config: RunConfig, data: TrainingSet) -> RunConfig:
    """The settings that a run trains with and records. ``input.backed`` is resolved before the data are read, and
    ``placement`` describes the devices of the moment, so that it stays as it is.

    Raises:
        InputError: a setting does not fit the data.
    """
    if config.input.normalise == "auto":
        normalise = "none" if data.preparation.target_sum is None else "log1p"
        config = config.with_settings(input={"normalise": normalise})
    if config.input.target_sum == "median":
        # A likelihood of counts takes log-expression for neighbors alone, so its preparation has no target.
        counts = data.preparation.kind == "counts"
        target_sum = data.preparation.library if counts else data.preparation.target_sum
        if target_sum is not None:  # None: nothing is normalised, and the setting has no effect
            config = config.with_settings(input={"target_sum": target_sum})
    return family_of(config).resolve(config, data)
