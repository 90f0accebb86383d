"""What every group of settings is."""

import os
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

_LARGEST = 2**32 - 1
"""No whole number that a run counts with is larger."""

Width = Annotated[int, Field(ge=1, le=65_536)]
"""Units of a layer; one of more would fit nowhere, which is better said before it is tried."""


class Section(BaseModel):
    """A group of settings: immutable, and closed to names it does not know.

    Nothing is turned into what a setting takes: "2", 2.0 and true are no whole numbers. Lists stand for tuples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, strict=True)

    @field_validator("*")
    @classmethod
    def _of_this_world(cls, value: Any) -> Any:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, int) and abs(part) > _LARGEST:
                raise ValueError(f"should be at most {_LARGEST}")
            if isinstance(part, str) and not _nameable(part):
                raise ValueError("should hold no characters that the name of a file cannot have")
        return value


def _nameable(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
