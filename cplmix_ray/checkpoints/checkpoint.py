"""Checkpoints: a safetensors file for each part of the model and a manifest, independent of the layout of workers."""

import contextlib
import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from safetensors import SafetensorError

from cplmix_ray.checkpoints.manifest import FORMAT, SUFFIX, pack, unpack
from cplmix_ray.models.base import Parts
from cplmix_ray.utils.durable import OLD, PARTIAL, REPLACED, clear, discard, make_folder, replace_folder, write_file

_MANIFEST = "manifest.json"
_NAME = re.compile(rf"({re.escape(REPLACED)})?step-([0-9]{{1,18}})")
_MAX_LISTINGS = 5


class CheckpointContent(Protocol):
    """Everything that is needed to continue training after ``step`` steps."""

    @property
    def step(self) -> int: ...

    @property
    def parts(self) -> Parts: ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified."""

    path: Path
    step: int
    parts: Parts
    manifest: dict[str, Any]


def write_checkpoint(folder: Path, snapshot: CheckpointContent, facts: dict[str, Any], keep: int) -> Path:
    """Write ``step-NNNNNNNN`` in ``folder`` and delete older checkpoints except the newest ``keep - 1``.

    The folder is written under a temporary name, flushed to disk and renamed; older checkpoints are deleted only
    afterwards. Checkpoints of later steps, which exist if a run was resumed from before a damaged one, are kept until
    the run reaches their step and replaces them, since they may be repaired.

    Args:
        facts: entries of the manifest besides the format, the step and the checksums of the files.

    Raises:
        OSError: it cannot be written; existing checkpoints are unchanged.
    """
    final = checkpoint_at(folder, snapshot.step)
    partial = folder / (PARTIAL + final.name)
    make_folder(folder)
    clear(folder)
    try:
        _write_files(partial, snapshot, facts)
        replace_folder(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    older = [path for step, path in _found(folder) if step < snapshot.step]
    for path in older[: max(0, len(older) + 1 - keep)]:
        with contextlib.suppress(OSError):  # the new checkpoint has been written, so this is no failure
            discard(path)
    return final


def write_only_checkpoint(folder: Path, snapshot: CheckpointContent, facts: dict[str, Any]) -> Path:
    """Write a checkpoint as :func:`write_checkpoint` does, and then remove all others, also those of later steps.

    Raises:
        OSError: it cannot be written, or another one not removed; each is complete or gone.
    """
    final = write_checkpoint(folder, snapshot, facts, keep=1)
    for _, path in _found(folder):
        if path != final:
            discard(path)
    return final


def foreign_entries(folder: Path) -> list[str]:
    """Names of entries of a checkpoint folder that this package did not write."""
    ours = (PARTIAL, REPLACED, OLD)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [name for name in names if not name.startswith(ours) and not _NAME.fullmatch(name)]


def checkpoint_at(folder: Path, step: int) -> Path:
    """Path of the checkpoint of a step in the folder of checkpoints."""
    return folder / f"step-{step:08d}"


def _write_files(partial: Path, snapshot: CheckpointContent, facts: dict[str, Any]) -> None:
    partial.mkdir()
    files = {}
    for part, tensors in snapshot.parts.items():
        data = safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()})
        files[f"{part}{SUFFIX}"] = hashlib.sha256(data).hexdigest()
        write_file(partial / f"{part}{SUFFIX}", data)
    write_file(partial / _MANIFEST, pack({"format": FORMAT, "step": snapshot.step, "files": files, **facts}))


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and a description of each newer one that is damaged."""
    damaged: list[str] = []
    for _ in range(_MAX_LISTINGS):
        found, damaged = _found(folder), []
        for _, path in reversed(found):
            try:
                return read_checkpoint(path), damaged
            except (OSError, ValueError, SafetensorError) as error:
                damaged.append(f"{path} is damaged ({' '.join(str(error).split())})")
        if _found(folder) == found:  # otherwise a run in progress has replaced the checkpoints that were listed
            break
    return None, damaged


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and compare its files with their checksums.

    Raises:
        ValueError: the format is unknown, or a file was changed.
        OSError: a file is missing.
    """
    manifest = unpack(_read(path / _MANIFEST))
    named = _NAME.fullmatch(path.name)
    if named and int(named[2]) != manifest["step"]:
        raise ValueError(f"it contains step {manifest['step']}")
    parts = {}
    for name, checksum in manifest["files"].items():
        data = _read(path / name)
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ValueError(f"{name} does not match its checksum")
        parts[name.removesuffix(SUFFIX)] = safetensors.torch.load(data)
    return Checkpoint(path, manifest["step"], parts, manifest)


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by step, including one under its temporary name that was being replaced when a run was killed."""
    if not folder.is_dir():
        return []
    names = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [
        (int(name[2]), folder / name[0])
        for name in sorted(names, key=lambda name: (int(name[2]), name[1] is None, name[0]))
    ]


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # reading a pipe may never end
        raise ValueError(f"{path.name} is not a regular file")
    return path.read_bytes()
