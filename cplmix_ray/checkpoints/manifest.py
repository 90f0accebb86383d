"""The manifest of a checkpoint: a JSON file with a checksum, whose content is validated when it is read."""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, ValidationError

from cplmix_ray.config.families import describe, validate_run
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.training_set import MAIN
from cplmix_ray.models.base import part_names
from cplmix_ray.models.registry import family_of

FORMAT = 4
READABLE = (2, 3, FORMAT)
"""Format 2 has no checksum of the manifest itself; formats 2 and 3 have one preparation instead of one per modality."""
SUFFIX = ".safetensors"
_BEFORE, _AFTER, _DIGITS = b'{"sha256": "', b'",\n', 64

_PartFile = Annotated[str, Field(pattern=r"\A[a-z][a-z0-9_]{0,40}(-(0|[1-9][0-9]{0,5}))?\.safetensors\z")]
_Checksum = Annotated[str, Field(pattern=rf"\A[0-9a-f]{{{_DIGITS}}}\z")]


class _Manifest(BaseModel):
    """Schema of a manifest. The pattern of file names ensures that no files outside the checkpoint are opened."""

    model_config = ConfigDict(extra="allow")

    format: Literal[2, 3, 4]
    step: NonNegativeInt
    files: dict[_PartFile, _Checksum] = Field(min_length=1)


class _RunManifest(_Manifest):
    """Schema of the manifest of a run's checkpoint, with the settings of the run and facts of its cells."""

    config: dict[str, Any]
    preparations: dict[str, dict[str, Any]] = Field(min_length=1)
    n_cells: NonNegativeInt
    seconds: FiniteFloat


def pack(manifest: dict[str, Any]) -> bytes:
    """The manifest as JSON, which begins with the checksum of the rest."""
    body = json.dumps(manifest, indent=1).encode().removeprefix(b"{")
    return _BEFORE + hashlib.sha256(body).hexdigest().encode() + _AFTER + body


def unpack(data: bytes) -> dict[str, Any]:
    """Read the output of :func:`pack`, or a manifest of format 2.

    Raises:
        ValueError: it is damaged, has an unknown format, or does not match the schema.
    """
    try:
        manifest = json.loads(data)
    except RecursionError:
        raise ValueError("manifest.json is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"manifest.json is not valid JSON: {_short(error)}") from None
    if not isinstance(manifest, dict):
        raise ValueError("manifest.json contains no mapping")
    if manifest.get("format") not in READABLE:  # first, since later formats may have their checksum elsewhere
        known = " and ".join(str(each) for each in READABLE)
        raise ValueError(f"format {_short(manifest.get('format'))} is none of {known}, which this version reads")
    if data.startswith(_BEFORE):
        end = len(_BEFORE) + _DIGITS
        given, between, body = data[len(_BEFORE) : end], data[end : end + len(_AFTER)], data[end + len(_AFTER) :]
        if between != _AFTER or hashlib.sha256(body).hexdigest().encode() != given:
            raise ValueError("manifest.json does not match its checksum")
    elif manifest["format"] != 2:
        raise ValueError("manifest.json has no checksum")
    if manifest["format"] < 4 and "preparation" in manifest:
        manifest["preparations"] = {MAIN: manifest.pop("preparation")}
    try:
        (_RunManifest if "config" in manifest else _Manifest).model_validate(manifest, strict=True)
        for preparation in manifest.get("preparations", {}).values():
            Preparation.from_dict(preparation)
        if "config" in manifest:
            _require_every_part(manifest)
    except ValidationError as error:
        raise ValueError(f"manifest.json: {_short(describe(error))}") from None
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"manifest.json: preparation: {_short(error)}") from None
    return manifest


def _require_every_part(manifest: dict[str, Any]) -> None:
    """Compare the files with the parts of the model that the settings describe.

    Raises:
        ValueError: they differ, or a setting has a value that none has.
    """
    try:
        config = validate_run(manifest["config"])
        expected = part_names(family_of(config), config)
    except ValidationError as error:
        # Settings that this version does not know or does not allow are reported when the settings are read.
        if all(item["type"] in ("extra_forbidden", "value_error") for item in error.errors(include_url=False)):
            return
        raise
    if {f"{part}{SUFFIX}" for part in expected} != set(manifest["files"]):
        raise ValueError(
            f"its files are {', '.join(sorted(manifest['files']))}, but the parts of its model are "
            f"{', '.join(expected)}"
        )


def _short(what: object) -> str:
    text = " ".join(str(what).split()) if not isinstance(what, dict | list) else type(what).__name__
    return text if len(text) < 200 else f"{text[:200]}..."
