"""Where Ray Train keeps its checkpoints while a run lasts."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray

from cplmix_ray.utils.errors import InputError


@contextlib.contextmanager
def train_storage(asked: str | None) -> Iterator[str]:
    """The folder or address asked for; on a single machine, a temporary folder where none was.

    Raises:
        InputError: the cluster has several machines and none was given, or the folder cannot be made.
    """
    if asked is None:
        if len({node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}) > 1:
            raise InputError(
                "The cluster has several machines, all of which must reach Ray Train's checkpoints; name a shared "
                "folder or an address such as s3://bucket/folder with --train-storage."
            )
        with tempfile.TemporaryDirectory(prefix="cplmix-ray-train-", ignore_cleanup_errors=True) as folder:
            yield folder
    elif "://" in asked:
        yield asked
    else:
        folder = str(Path(asked).expanduser().resolve())
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot write to --train-storage {folder} ({error.strerror}).") from None
        yield folder
