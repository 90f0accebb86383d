"""Record the numbers that the commands yield in many settings, and compare later code with them bit by bit.

    python tests/reference_numbers.py record FILE.json
    python tests/reference_numbers.py compare FILE.json [--only NAME ...] [--local]

Each setting runs one or more commands on small generated data for 20 steps. Recorded are the losses of every step, the
scores, the first rows of the posteriors, and checksums of the other scalars, of the results and of the tensors in the
newest checkpoint. Only the commands and the files that they write are used, so that the package may change inside.
Bitwise equality can be expected on one machine, with the same versions of the libraries, only.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import argparse
import contextlib
import csv
import hashlib
import io
import json
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from reference_settings import LOCAL, RAY, make_data
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
SETTINGS = LOCAL | RAY
N_ROWS = 2
"""Rows of the posteriors that are recorded as numbers."""
_DIGITS = 32
"""Hexadecimal digits of a SHA-256 checksum that are recorded."""
_TIMES = {"seconds", "step_ms", "coupling_wait_ms"}


def run_setting(name: str, data: Path) -> dict[str, Any]:
    """Run the commands of a setting in a folder of its own, and return what they yield."""
    with tempfile.TemporaryDirectory() as folder:
        for line in SETTINGS[name]:
            words = [word.format(out=folder, data=data) for word in line.split()]
            said = _in_process(words) if name in LOCAL else _apart(words)
            if said is not None:
                raise RuntimeError(f"{name}: {' '.join(words)}\n{said}")
        return collect(Path(folder))


def _in_process(words: list[str]) -> str | None:
    """Run a command in this process; returns what it said where it failed."""
    argv, said, failed = sys.argv, io.StringIO(), False
    sys.argv = words
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            runpy.run_module(f"cplmix_ray.{words[0]}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        failed = bool(end.code)
    except Exception:
        said.write(traceback.format_exc())
        failed = True
    finally:
        sys.argv = argv
    return said.getvalue() if failed else None


def _apart(words: list[str]) -> str | None:
    """Run a command in a process of its own; returns what it said where it failed."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", f"cplmix_ray.{words[0]}", *words[1:]]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    return f"{done.stdout}{done.stderr}" if done.returncode else None


def collect(folder: Path) -> dict[str, Any]:
    """What lies in the folder of a setting, by path and kind; a search's trials are left out, as its rows name them."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        at = path.relative_to(folder)
        if path.name == "metrics.json" and "trials" not in at.parts:
            scores = json.loads(path.read_text())
            found[str(at)] = {name: value for name, value in scores.items() if name not in _TIMES}
        elif path.name == "results.csv":
            found[str(at)] = [_row(row) for row in csv.DictReader(path.open())]
        elif path.suffix == ".h5ad":
            found[str(at)] = _results(anndata.read_h5ad(path))
        elif path.name == "tensorboard" and str(at) != "search/tensorboard":
            found[str(at)] = _scalars(path)
        elif path.name == "checkpoints" and "trials" not in at.parts:
            newest = max(path.glob("step-*"))
            found[str(at)] = {"newest": newest.name, **_tensors(sorted(newest.glob("*.safetensors")))}
        elif path.name == "augmenter.safetensors":
            found[str(at)] = _tensors([path])
    return found


def _row(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if name not in _TIMES and not name.endswith("seconds")}


def _results(adata: anndata.AnnData) -> dict[str, Any]:
    """Of a file with results, checksums of these and the first posteriors; of other cells, the checksum of X."""
    if "cplmix_probs" not in adata.obsm:
        columns = [adata.obs[name].astype(str).to_numpy(str) for name in sorted(adata.obs)]
        return {"X": _sha([adata.X.toarray()]), "obs": _sha(columns)}
    probs = adata.obsm["cplmix_probs"]
    return {
        "cplmix_probs": _sha([probs]),
        "X_cplmix": _sha([adata.obsm["X_cplmix"]]),
        "category": _sha([adata.obs["cplmix_category"].cat.codes.to_numpy(np.int64)]),
        "confidence": _sha([adata.obs["cplmix_confidence"].to_numpy()]),
        "first_probs": [_short(value) for value in probs[:N_ROWS].ravel()],
    }


def _scalars(folder: Path) -> dict[str, Any]:
    """Losses as numbers, a value a step; of the other scalars a checksum for each group."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found: dict[str, Any] = {}
    others: dict[str, list[np.ndarray]] = {}
    for tag in sorted(events.Tags()["scalars"]):
        points, group = events.Scalars(tag), tag.split("/")[0]
        if group in ("loss", "augmenter"):
            found[tag] = [_short(point.value) for point in points]
        else:
            values = np.array([(point.step, point.value) for point in points])
            others.setdefault(group, []).extend([np.array(tag), values])
    return found | {group: _sha(parts) for group, parts in others.items()}


def _tensors(paths: Iterable[Path]) -> dict[str, str]:
    files = [load_file(path) for path in paths]
    names = [name for tensors in files for name in sorted(tensors)]
    return {
        "tensors": _sha([tensors[name] for tensors in files for name in sorted(tensors)]),
        "names": _sha([np.array(names)]),
    }


def _sha(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGITS]


def _short(value: float) -> float:
    """A number of 32 bits with the fewest digits that tell it from all others."""
    return float(str(np.float32(value)))


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a record with its place, lists of numbers as one value."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, f"{name} {key}".strip())
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for i, value in enumerate(tree):
            yield from leaves(value, f"{name} {i}")
    else:
        yield name, tree


def difference(recorded: Any, now: Any) -> str | None:
    """In what a value differs from the recorded one; None where the two are bitwise equal."""
    old, new = json.dumps(recorded), json.dumps(now)
    if old == new:
        return None
    try:
        olds, news = np.array(json.loads(old), float), np.array(json.loads(new), float)
        gap = np.abs(news - olds) / np.maximum(np.abs(olds), 1e-30)
        return f"differs by up to {np.max(gap):.2g} of the recorded, first at {np.flatnonzero(gap)[:1]}"
    except (TypeError, ValueError):
        return f"was {old[:60]}, is {new[:60]}"


def compare(recorded: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The differences from what was recorded of a setting, one line each, and the places that are new."""
    old, new = dict(leaves(recorded)), dict(leaves(now))
    changes = {place: difference(value, new.get(place)) for place, value in old.items() if value is not None}
    added = [place for place, value in new.items() if value is not None and old.get(place) is None]
    return [f"{place}: {change}" for place, change in changes.items() if change], added


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), metavar="NAME", help="these settings alone")
    parser.add_argument("--local", action="store_true", help="without the settings that start Ray")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    known = json.loads(args.file.read_text()) if args.file.exists() else {}
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder))
        for name in args.only or (LOCAL if args.local else SETTINGS):
            begun = time.perf_counter()
            now = run_setting(name, Path(folder))
            word = "recorded"
            if args.action == "compare":
                changes, added = compare(known[name], now) if name in known else (["is not recorded"], [])
                different += bool(changes)
                word = "\n    ".join([f"{len(changes)} differences", *changes]) if changes else "bitwise equal"
                word += f", {len(added)} figures are new" if added else ""
            known[name] = now
            print(f"{name} ({time.perf_counter() - begun:.1f} s): {word}", flush=True)
    if args.action == "record":
        lines = ",\n".join(f'"{name}": {json.dumps(known[name], separators=(",", ":"))}' for name in sorted(known))
        args.file.write_text(f"{{\n{lines}\n}}\n")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
