"""Checkpoints that do not know the layout: one safetensors file an arm, one manifest, whole or not there at all."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from cplmix_ray.trainer.events import Snapshot

FORMAT = 2
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read and verified."""

    path: Path
    step: int
    arms: dict[int, dict[str, Tensor]]
    manifest: dict[str, Any]


def write_checkpoint(folder: Path, snapshot: Snapshot, facts: dict[str, Any], keep: int) -> Path:
    """Write ``step-NNNNNNNN`` in ``folder``, then remove all but the newest ``keep``.

    The files are made under another name, flushed to the disk, and take their own name in one move.

    Args:
        facts: what the manifest holds besides the format, the step and the files' checksums.
    """
    final = folder / f"step-{snapshot.step:08d}"
    partial = folder / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = {}
    for arm, tensors in sorted(snapshot.arms.items()):
        data = safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()})
        files[f"arm-{arm}.safetensors"] = hashlib.sha256(data).hexdigest()
        _write(partial / f"arm-{arm}.safetensors", data)
    manifest = {"format": FORMAT, "step": snapshot.step, "files": files, **facts}
    _write(partial / _MANIFEST, json.dumps(manifest, indent=1).encode())
    if final.exists():  # the same step once more, from a run that was resumed
        shutil.rmtree(final)
    partial.rename(final)
    _flush(folder)
    for old in _steps(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones."""
    wrong: list[str] = []
    for path in reversed(_steps(folder)):
        try:
            return read_checkpoint(path), wrong
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            wrong.append(f"{path} is damaged ({error}) and is passed over")
    return None, wrong


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and compare its files with their checksums.

    Raises:
        ValueError: the format is unknown, or a file is not what was written.
        OSError: a file is missing.
    """
    manifest = json.loads((path / _MANIFEST).read_bytes())
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']} is not {FORMAT}, which this version reads")
    arms = {}
    for name, checksum in manifest["files"].items():
        data = (path / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ValueError(f"{name} does not match its checksum")
        arms[int(name.removeprefix("arm-").removesuffix(".safetensors"))] = safetensors.torch.load(data)
    return Checkpoint(path, manifest["step"], arms, manifest)


def _steps(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-[0-9]*")) if folder.is_dir() else []


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
