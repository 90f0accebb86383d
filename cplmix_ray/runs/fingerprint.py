"""Fingerprint of a run: hashes of its cells, its settings, versions and seed, by which two runs are compared."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from cplmix_ray.config import RunConfig
from cplmix_ray.data.source import Source
from cplmix_ray.runs.resume import in_memory_unless_backed
from cplmix_ray.version import __version__

_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "anndata", "usearch", "ray")
_WITHOUT_EFFECT = {
    "input": {"data", "metadata", "labels_key", "state_key"},
    "training": {"log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints"},
}
"""Settings that do not change the result: files and columns that the model never receives, and what is reported."""
_IMAGES = 100


def fingerprint(source: Source, config: RunConfig) -> dict[str, Any]:
    """The fingerprint of a run.

    Args:
        source: the cells as they were read. Their order matters; how their values are stored does not.
        config: the settings as the run resolved them.

    Returns:
        ``data``: SHA-256 of the values, the names of the cells, those of the genes, and the covariates if there are
        any; ``settings``: JSON of the settings that change the result, by name; ``versions``: of Python and packages;
        ``seed``.
    """
    return {
        "data": data_fingerprint(source, config),
        "settings": json.dumps(_settings(config)),
        "versions": {
            "cplmix_ray": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
        },
        "seed": config.seed,
    }


def data_fingerprint(source: Source, config: RunConfig) -> dict[str, str]:
    """The part of a fingerprint that describes the cells."""
    given = config.input
    columns = [name for name in (given.batch_key, *given.covariates) if name is not None]
    found = {
        "values": source.matrix.statistics.content or _hash_of_some_images(source),
        "names of cells": _hash_of_text(source.adata.obs_names),
        "names of genes": _hash_of_text(source.var_names),
    }
    if columns:
        found["covariates"] = _hash_of_text(text for name in columns for text in source.adata.obs[name].astype(str))
    return found


def fingerprint_in(uns: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fingerprint that a result holds; None where there is none that can be read."""
    try:
        found = uns["cplmix_ray"]["fingerprint"]
        seed = found["seed"] if isinstance(found["seed"], str) else int(found["seed"])
        return {
            "data": dict(found["data"]),
            "settings": json.dumps(json.loads(found["settings"])),
            "versions": dict(found["versions"]),
            "seed": seed,
        }
    except (KeyError, TypeError, ValueError):
        return None


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The parts in which two fingerprints differ, such as "data (values)" or "seed (0, 1)"; empty if they are equal."""
    found = []
    data = [name for name in {**a["data"], **b["data"]} if a["data"].get(name) != b["data"].get(name)]
    if data:
        found.append(f"data ({', '.join(data)})")
    first, second = (json.loads(each["settings"]) for each in (a, b))
    for part, one, other in (("settings", first, second), ("versions", a["versions"], b["versions"])):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        if names:
            changes = [f"{name} {one.get(name, 'unset')}, {other.get(name, 'unset')}" for name in names]
            found.append(f"{part} ({'; '.join(changes)})")
    if a["seed"] != b["seed"]:
        found.append(f"seed ({a['seed']}, {b['seed']})")
    return found


def _settings(config: RunConfig) -> dict[str, Any]:
    tree = in_memory_unless_backed(config.model_dump(mode="json"))
    found: dict[str, Any] = {}
    for section, value in tree.items():
        if section in ("placement", "seed"):
            continue
        if not isinstance(value, dict):
            found[section] = value
            continue
        unused = _WITHOUT_EFFECT.get(section, set())
        found |= {f"{section}.{name}": each for name, each in value.items() if name not in unused}
    return found


def _hash_of_text(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _hash_of_some_images(source: Source) -> str:
    """Hash of images that are made as they are read: of all their numbers that would be most of the work of a run."""
    n = source.matrix.n_cells
    rows = source.matrix.dense_rows(np.linspace(0, n - 1, min(n, _IMAGES)).astype(np.int64))
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
