"""Checkpoints that do not know the layout: one safetensors file an arm, one manifest, whole or not there at all."""

import contextlib
import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from cplmix_ray.checkpoints.manifest import FORMAT, pack, unpack
from cplmix_ray.distributed.events import Snapshot
from cplmix_ray.utils.durable import PARTIAL, REPLACED, clear, discard, make_folder, replace_folder, write_file

_MANIFEST = "manifest.json"
_NAME = re.compile(rf"({re.escape(REPLACED)})?step-([0-9]{{1,18}})")
_LOOKS = 5


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read and verified."""

    path: Path
    step: int
    arms: dict[int, dict[str, Tensor]]
    manifest: dict[str, Any]


def write_checkpoint(folder: Path, snapshot: Snapshot, facts: dict[str, Any], keep: int) -> Path:
    """Write ``step-NNNNNNNN`` in ``folder``; then, of it and older ones, all but the newest ``keep`` go.

    The files are made under another name, flushed to the disk, and take their own name in one move; nothing that could
    be gone on from goes before that. Checkpoints of later steps, which a run has that went on from before a damaged
    one, stay until the run comes to their step and replaces them: what is wrong with them may be mended.

    Args:
        facts: what the manifest holds besides the format, the step and the files' checksums.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    final = checkpoint_at(folder, snapshot.step)
    partial = folder / (PARTIAL + final.name)
    make_folder(folder)
    clear(folder)
    try:
        _fill(partial, snapshot, facts)
        replace_folder(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    older = [path for step, path in _found(folder) if step < snapshot.step]
    for path in older[: max(0, len(older) + 1 - keep)]:
        with contextlib.suppress(OSError):  # the new one is there, so nothing has failed
            discard(path)
    return final


def checkpoint_at(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is in the folder of them."""
    return folder / f"step-{step:08d}"


def _fill(partial: Path, snapshot: Snapshot, facts: dict[str, Any]) -> None:
    partial.mkdir()
    files = {}
    for arm, tensors in sorted(snapshot.arms.items()):
        data = safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()})
        files[f"arm-{arm}.safetensors"] = hashlib.sha256(data).hexdigest()
        write_file(partial / f"arm-{arm}.safetensors", data)
    write_file(partial / _MANIFEST, pack({"format": FORMAT, "step": snapshot.step, "files": files, **facts}))


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was wrong with newer ones."""
    wrong: list[str] = []
    for _ in range(_LOOKS):
        found, wrong = _found(folder), []
        for _, path in reversed(found):
            try:
                return read_checkpoint(path), wrong
            except (OSError, ValueError, SafetensorError) as error:
                wrong.append(f"{path} is damaged ({' '.join(str(error).split())})")
        if _found(folder) == found:  # else a run that goes on has put newer ones in the place of those just listed
            break
    return None, wrong


def read_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint and compare its files with their checksums.

    Raises:
        ValueError: the format is unknown, or a file is not what was written.
        OSError: a file is missing.
    """
    manifest = unpack(_read(path / _MANIFEST))
    named = _NAME.fullmatch(path.name)
    if named and int(named[2]) != manifest["step"]:
        raise ValueError(f"it holds step {manifest['step']}")
    arms = {}
    for name, checksum in manifest["files"].items():
        data = _read(path / name)
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ValueError(f"{name} does not match its checksum")
        arms[int(name.removeprefix("arm-").removesuffix(".safetensors"))] = safetensors.torch.load(data)
    return Checkpoint(path, manifest["step"], arms, manifest)


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by step; one that was to be replaced when the run was killed is there under its hidden name."""
    if not folder.is_dir():
        return []
    names = [match for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [
        (int(name[2]), folder / name[0])
        for name in sorted(names, key=lambda name: (int(name[2]), name[1] is None, name[0]))
    ]


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"{path.name} is no file")
    return path.read_bytes()
