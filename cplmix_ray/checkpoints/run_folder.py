"""The folder of a run and the names in it that people script against."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cplmix_ray.data.io.augmenter_file import MANIFEST, WEIGHTS, FrozenAugmenter
from cplmix_ray.utils.durable import holds_more, make_folder, replace_file, unwritten, why
from cplmix_ray.utils.errors import InputError


class RunFolder:
    """Paths of a run: config.yaml, metrics.json, result.h5ad, checkpoints/, tensorboard/, and
    augmenter/ where it learns from copies of one.

    Args:
        tensorboard: where the scalars go in place of a folder of the run's own.
    """

    def __init__(self, path: str | Path, tensorboard: Path | None = None):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.json"
        self.result = self.path / "result.h5ad"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = tensorboard or self.path / "tensorboard"
        self.augmenter = self.path / "augmenter"

    def holds_run(self) -> bool:
        """Whether there is something of a run; what a save that was killed had begun is nothing."""
        return self.config.exists() or holds_more(self.checkpoints)

    def require_room(self, resume: bool) -> None:
        """Before any work: the folder can be written to, and no other run is overwritten.

        Raises:
            InputError: otherwise.
        """
        if self.holds_run() and not resume:
            raise InputError(
                f"{self.path} already holds a run; add --resume to go on with it, or choose another --out."
            )
        require_writable(self.path)

    def keep_augmenter(self, frozen: FrozenAugmenter | None) -> None:
        """Keep the augmenter that the run learns from, so that it can go on where the given folder is gone."""
        if frozen is not None:
            write_whole(self.augmenter / WEIGHTS, lambda partial: partial.write_bytes(frozen.weights()))
            write_json(self.augmenter / MANIFEST, frozen.manifest({}))

    def make(self) -> None:
        """Make the folder where there is none.

        Raises:
            InputError, DiskError: it cannot be made.
        """
        try:
            make_folder(self.path)
        except OSError as error:
            raise unwritten(self.path, error) from None

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        write_json(self.metrics, metrics)


def require_writable(folder: Path) -> None:
    """Check that files can be made in a folder that may not exist yet, and leave nothing behind.

    Raises:
        InputError: they cannot.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"Cannot write to {folder} ({why(error)}); choose another folder with --out.") from None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Make a file, and its folder, so that it is there whole or not at all.

    Args:
        write: writes the content to the path that it is given, which takes its own name afterwards.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    try:
        replace_file(path, write)
    except OSError as error:
        raise unwritten(path, error) from None


def write_json(path: Path, tree: dict[str, Any]) -> None:
    """Write a whole file of JSON or none.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    write_whole(path, lambda partial: partial.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8"))
