"""The manifest of a checkpoint as a file: every byte of it is covered by a checksum, and nothing in it is believed."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError, model_validator

from cplmix_ray.config.files import describe
from cplmix_ray.data.preprocessing.preparation import Preparation

FORMAT = 3
READABLE = (2, FORMAT)
"""Format 2 had no checksum of the manifest itself."""
_BEFORE, _AFTER, _DIGITS = b'{"sha256": "', b'",\n', 64

_ArmFile = Annotated[str, Field(pattern=r"\Aarm-(0|[1-9][0-9]{0,5})\.safetensors\z")]
_Checksum = Annotated[str, Field(pattern=rf"\A[0-9a-f]{{{_DIGITS}}}\z")]


class _Shape(BaseModel):
    """What a manifest must be before anything is done with it. Names of files are those of arms: no other is opened."""

    model_config = ConfigDict(extra="allow")

    format: Literal[2, 3]
    step: NonNegativeInt
    files: dict[_ArmFile, _Checksum] = Field(min_length=1)


class _RunShape(_Shape):
    """The same of a run's checkpoint, which says besides with which settings and on which cells."""

    config: dict[str, Any]
    preparation: Preparation
    n_cells: NonNegativeInt
    seconds: FiniteFloat

    @model_validator(mode="after")
    def _every_arm(self) -> "_RunShape":
        model = self.config.get("model")
        n_arms = model.get("n_arms") if isinstance(model, dict) else None
        whole = type(n_arms) is int and n_arms == len(self.files)
        if not whole or {f"arm-{arm}.safetensors" for arm in range(len(self.files))} != set(self.files):
            raise ValueError(f"it names {', '.join(sorted(self.files))}, and its settings {n_arms} arms")
        return self


def pack(manifest: dict[str, Any]) -> bytes:
    """The manifest as JSON that begins with the checksum of all that follows."""
    body = json.dumps(manifest, indent=1).encode().removeprefix(b"{")
    return _BEFORE + hashlib.sha256(body).hexdigest().encode() + _AFTER + body


def unpack(data: bytes) -> dict[str, Any]:
    """Read what :func:`pack` gave, or a manifest of format 2.

    Raises:
        ValueError: it is damaged, of an unknown format, or not what a manifest is.
    """
    try:
        manifest = json.loads(data)
    except RecursionError:
        raise ValueError("manifest.json is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"manifest.json is no JSON: {_short(error)}") from None
    if not isinstance(manifest, dict):
        raise ValueError("manifest.json holds no manifest")
    if manifest.get("format") not in READABLE:  # asked first, as a later format may have its checksum elsewhere
        known = " and ".join(str(each) for each in READABLE)
        raise ValueError(f"format {_short(manifest.get('format'))} is none of {known}, which this version reads")
    if data.startswith(_BEFORE):
        end = len(_BEFORE) + _DIGITS
        given, between, body = data[len(_BEFORE) : end], data[end : end + len(_AFTER)], data[end + len(_AFTER) :]
        if between != _AFTER or hashlib.sha256(body).hexdigest().encode() != given:
            raise ValueError("manifest.json does not match its checksum")
    elif manifest["format"] != 2:
        raise ValueError("manifest.json has lost its checksum")
    try:
        (_RunShape if "config" in manifest else _Shape).model_validate_json(data, strict=True)
        if "preparation" in manifest:
            Preparation.from_dict(manifest["preparation"])
    except ValidationError as error:
        raise ValueError(f"manifest.json: {_short(describe(error))}") from None
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"manifest.json: preparation: {_short(error)}") from None
    return manifest


def _short(what: object) -> str:
    text = " ".join(str(what).split()) if not isinstance(what, dict | list) else type(what).__name__
    return text if len(text) < 200 else f"{text[:200]}..."
