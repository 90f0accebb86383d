"""Every setting of a run; each has its type, its bounds and the words that `--help` shows.

YAML files nest the settings by section (``model: {n_arms: 4}``); the command line uses the bare name
(``--n-arms 4``), so names are unique across sections.
"""

from pydantic import Field, model_validator

from cplmix_ray.config.arms import Model
from cplmix_ray.config.cells import Copies, Input
from cplmix_ray.config.objective import Alignment, Objective
from cplmix_ray.config.running import Placement, Training
from cplmix_ray.config.section import Section


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
        asked = self.copies.neighbour_space == "ensemble" or self.guesses
        return self.model.n_categories if asked else None

    @property
    def guesses(self) -> bool:
        """Whether the arms learn a first guess of the categories."""
        return self.alignment.align_guess > 0 or self.objective.guess > 0

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
        if self.alignment.align_guess > 0 and self.alignment.align_steps == 0:
            raise ValueError("alignment.align_guess: it is learned in a first stage; set align_steps")
        if self.guesses and self.model.overcluster > 1:
            raise ValueError("alignment.align_guess: a guess is of the K categories; set overcluster to 1")
        return self
