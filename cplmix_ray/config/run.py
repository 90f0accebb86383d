"""Settings that every run has, whatever its model family.

YAML files nest the settings by section (``model: {n_arms: 4}``); the command line uses the bare name (``--n-arms 4``)
where it is unambiguous, or section and name (``--model.n-arms 4``).
"""

from typing import Any, ClassVar, Self

from pydantic import Field

from cplmix_ray.config.data import Input
from cplmix_ray.config.placement import Placement
from cplmix_ray.config.section import Section
from cplmix_ray.config.training import Training


class RunConfig(Section):
    """Settings of one run. A model family derives from it and adds its own sections.

    Attributes:
        variable_settings: dotted names of the settings that may change during a run, as population based training does;
            no shape, data set or number of steps depends on them.
        resumable_settings: dotted names of the family's settings that a resumed run may change.
    """

    variable_settings: ClassVar[frozenset[str]] = frozenset({"training.lr", "training.clip"})
    resumable_settings: ClassVar[frozenset[str]] = frozenset()

    family: str = Field(description="Model family: cplmixvae (coupled mixture VAE) or vaegan (learned augmenter).")
    input: Input = Input()
    training: Training = Training()
    placement: Placement = Placement()
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of all random numbers.")

    def with_settings(self, **sections: dict[str, Any]) -> Self:
        """A validated copy with some settings of some sections replaced.

        Raises:
            ValidationError: a setting is unknown or out of bounds.
        """
        tree = self.model_dump()
        for section, settings in sections.items():
            tree[section] = {**tree[section], **settings}
        return type(self).model_validate(tree)
