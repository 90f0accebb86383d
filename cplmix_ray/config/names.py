"""Settings whose values are names in a registry."""

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from cplmix_ray.utils.registry import AUGMENTATIONS, COUPLINGS, LIKELIHOODS, Registry


class NameIn:
    """Annotation of a string that must be a registered name, or one of ``also``; checked during validation."""

    def __init__(self, registry: Registry, *also: str):
        self.registry, self.also = registry, also

    def names(self) -> tuple[str, ...]:
        """The names that are currently accepted."""
        return (*self.also, *self.registry.names())

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name not in self.names():
            raise PydanticCustomError(
                "unknown_name", "Input should be one of {names}", {"names": ", ".join(map(repr, self.names()))}
            )
        return name


LikelihoodName = Annotated[str, NameIn(LIKELIHOODS, "auto")]
CouplingName = Annotated[str, NameIn(COUPLINGS)]
AugmentationName = Annotated[str, NameIn(AUGMENTATIONS, "auto", "none")]
