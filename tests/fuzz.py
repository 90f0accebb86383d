"""Fuzzing of the readers: valid files with altered bytes, read in processes that may crash."""

import collections
import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing
import resource
import signal
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
from malformed import KINDS, cells, valid_h5ad

from cplmix_ray.config import load_config
from cplmix_ray.data.io.read import read_input
from cplmix_ray.data.preprocessing.preparation import Preparation
from cplmix_ray.data.validation import subprocess_probe
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.models.registry import build_dataset
from cplmix_ray.models.vaegan.frozen import MANIFEST, WEIGHTS, build_augmenter, freeze, read_augmenter
from cplmix_ray.models.vaegan.networks import Augmenter, AugmenterShape
from cplmix_ray.utils.errors import InputError, in_one_line

FORMATS = ("h5ad", "h5ad", "h5ad", "npz", "yaml", "csv", "augmenter")
SECONDS, BYTES = 8, 8 << 30
"""Limits of a reading process: CPU time and address space."""


@cache
def valid_files(kind: str, folder: Path, choice: int) -> dict[str, bytes]:
    """Valid files of one kind: name -> content."""
    if kind == "h5ad":
        return {"cells.h5ad": valid_h5ad(KINDS[choice % len(KINDS)], folder)}
    if kind == "npz":
        target = io.BytesIO()
        images = np.random.default_rng(0).integers(0, 255, (24, 5, 5)).astype(np.uint8)
        (np.savez, np.savez_compressed)[choice % 2](target, x=images, y=np.arange(24) % 3)
        return {"images.npz": target.getvalue()}
    if kind == "csv":
        text = cells("dense").to_df().to_csv().encode()
        return {"cells.csv.gz": gzip.compress(text)} if choice % 3 == 0 else {"cells.csv": text}
    if kind == "yaml":
        from cplmix_ray.config.files import dump_config

        return {"settings.yaml": dump_config(CplMixVAEConfig()).encode()}
    shape = AugmenterShape(10, 3, 2, (6,), pixels=False, nonnegative=True)
    frozen = freeze(Augmenter(shape), Preparation("log", tuple(f"gene_{i}" for i in range(10)), target_sum=1e4))
    return {WEIGHTS: frozen.weights(), MANIFEST: json.dumps(frozen.manifest({})).encode()}


def altered(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with some bytes replaced, zeroed, inserted, removed or repeated."""
    data = bytearray(content)
    for _ in range(int(rng.choice([1, 1, 2, 4, 16]))):
        at, n = int(rng.integers(len(data) + 1)), int(rng.choice([1, 1, 2, 4, 8, 64]))
        match int(rng.choice([0, 0, 0, 1, 1, 2, 3, 4, 5])):
            case 0:
                for i in range(at, min(at + n, len(data))):
                    data[i] = rng.integers(256)
            case 1:
                data[at : at + n] = bytes([rng.choice([0, 0, 255])] * len(data[at : at + n]))
            case 2:
                data[at:at] = rng.bytes(n)
            case 3:
                del data[at : at + n]
            case 4:
                data[at:at] = data[at : at + n]
            case 5:
                if at < len(data):
                    data[at] ^= 1 << int(rng.integers(8))
    return bytes(data)


def write(folder: Path, seed: int) -> tuple[str, Path]:
    """Write an altered file of a random format; returns the kind and the path (of the folder, for an augmenter)."""
    rng = np.random.default_rng(seed)
    kind = FORMATS[rng.integers(len(FORMATS))]
    files = dict(valid_files(kind, folder, int(rng.integers(30))))
    name = sorted(files)[rng.integers(len(files))]
    files[name] = altered(files[name], rng)
    if (
        kind == "augmenter" and name == WEIGHTS and rng.random() < 0.8
    ):  # so that the checksum does not reject them at once
        manifest = json.loads(files[MANIFEST])
        manifest["files"][WEIGHTS] = hashlib.sha256(files[WEIGHTS]).hexdigest()
        files[MANIFEST] = json.dumps(manifest).encode()
    for each, content in files.items():
        (folder / each).write_bytes(content)
    return kind, folder if kind == "augmenter" else folder / name


def read(kind: str, path: Path, seed: int) -> str:
    """Read a file; returns 'used', 'refused', or a description of any other outcome, which is a failure."""
    try:
        with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("always")
            if kind == "yaml":
                load_config(path)
            elif kind == "augmenter":
                build_augmenter(read_augmenter(path))
            else:
                backed = ("no", "yes", "auto")[seed % 3] if kind == "h5ad" else "auto"
                config = CplMixVAEConfig.model_validate(
                    {"input": {"data": str(path), "backed": backed}, "model": {"n_categories": 3}}
                )
                data = build_dataset(read_input(config), config)
                values_ng = data.training.matrix.block()
                if not np.isfinite(getattr(values_ng, "data", values_ng)).all():
                    return "values that are not finite"
        said = [str(warning.message) for warning in warned if not issubclass(warning.category, ResourceWarning)]
        return f"a warning: {said[0]}" if said else "used"
    except InputError as error:
        line = in_one_line(str(error))
        return (
            "refused"
            if line.isprintable() and ("--" in line or str(path) in line or "weights" in line)
            else f"a message that names nothing: {line}"
        )
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def _work(seeds: list[int], folder: Path, results: Path) -> None:
    """Read files one by one; the seed and kind are written before, the outcome after, so that a crash is attributed."""
    import torch

    torch.set_num_threads(1)
    subprocess_probe._SECONDS = 4
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stderr = io.StringIO()
    with open(results, "a", buffering=1, encoding="utf-8") as file:
        for seed in seeds:
            kind, path = write(folder, seed)
            file.write(f"{seed}\t{kind}\t")
            file.flush()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # kills the process, even inside a C library
            said = read(kind, path, seed)
            signal.setitimer(signal.ITIMER_PROF, 0)
            file.write(f"{said}\n")


def run(seeds: list[int]) -> dict[tuple[str, str], list[int]]:
    """(kind, outcome) -> seeds; the outcome is 'signal N' if the reading process was killed by a signal."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fuzz"])
    found: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        waiting, at = list(seeds), 0
        while waiting:
            folder, results = Path(scratch) / f"{at}", Path(scratch) / f"{at}.tsv"
            at += 1
            folder.mkdir()
            process = context.Process(target=_work, args=(waiting, folder, results))
            process.start()
            process.join()
            lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
            for line in lines:
                seed, kind, said = line.split("\t", 2)
                found[kind, said or f"signal {-process.exitcode}"].append(int(seed))
            if not lines:
                raise RuntimeError(f"The process ended with exit code {process.exitcode} before it read a file.")
            waiting = waiting[len(lines) :]
    return found


if __name__ == "__main__":
    first, n = int(sys.argv[1]), int(sys.argv[2])
    for (kind, said), seeds in sorted(run(list(range(first, first + n))).items()):
        print(f"{kind}\t{said}\t{len(seeds)}\t{seeds[:5]}")
