"""Base class of all groups of settings."""

import os
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from cplmix_ray.utils.home import expand_home

_LARGEST = 2**32 - 1
"""Largest integer that a setting may have."""

Width = Annotated[int, Field(ge=1, le=65_536)]
"""Number of units of a layer, bounded so that absurd sizes are refused before memory is allocated for them."""


PathText = Annotated[str, BeforeValidator(expand_home)]
"""Path of a file or folder, or several with commas between them; home folders are expanded."""


class Section(BaseModel):
    """An immutable group of settings that refuses unknown names.

    Types are strict: "2", 2.0 and true are not accepted as integers. Lists are accepted as tuples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, strict=True)

    @field_validator("*")
    @classmethod
    def _within_limits(cls, value: Any) -> Any:
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, int) and abs(part) > _LARGEST:
                raise ValueError(f"must be at most {_LARGEST}")
            if isinstance(part, str) and not _valid_in_file_name(part):
                raise ValueError("must not contain characters that are not allowed in file names")
        return value


def _valid_in_file_name(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
