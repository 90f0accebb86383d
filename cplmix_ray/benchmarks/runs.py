"""Runs of a benchmark: an entry's settings for one seed, and what identifies the result."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cplmix_ray.benchmarks.entries import USES_ALL_SETTINGS, Baseline, Entry
from cplmix_ray.config import load_config, load_preset
from cplmix_ray.config.files import parse_config
from cplmix_ray.models.cplmixvae.config import CplMixVAEConfig
from cplmix_ray.simulation.settings import Simulation
from cplmix_ray.utils.errors import InputError

_IGNORED = {
    "input": {"data", "labels_key"},
    "training": {"log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints"},
}
"""Settings that do not change a result, or that have a column of their own. The seed and placement are ignored too."""


@dataclass(frozen=True)
class BenchmarkRun:
    """One run of a benchmark.

    Attributes:
        config: settings with the whole path of the data and the seed; other methods than cplmix use its input section.
        k_from_types: K is the number of types among the cells.
        settings: settings that differ from the defaults and those that the entry sets, as compact text.
        hash: of all settings that a result depends on except the seed, so that a changed default changes it.
    """

    entry: Entry
    config: CplMixVAEConfig
    k_from_types: bool
    settings: str
    hash: str

    @property
    def data(self) -> str:
        """Name of the data in rows."""
        return Path(self.config.input.data).name

    @property
    def key(self) -> tuple[str, ...]:
        """Identifies the run; its row has the same."""
        return self.entry.name, self.data, self.entry.method, self.hash, str(self.config.seed)

    @property
    def point(self) -> str:
        """Values of the settings that the entry compares, each preceded by a space."""
        tree = self.config.model_dump()
        return "".join(f" {name}={tree[name.partition('.')[0]][name.partition('.')[2]]}" for name in self.entry.over)

    def __str__(self) -> str:
        return f"{self.entry.name}{self.point} seed {self.config.seed}"


def expand_entries(
    entries: Iterable[Entry],
    home: Path,
    data_dir: Path | None = None,
    seeds: tuple[int, ...] = (),
    simulated: Path = Path("simulated"),
) -> list[BenchmarkRun]:
    """All runs of the entries, without duplicates.

    Args:
        home: folder of the benchmark's file.
        data_dir: folder of data with a relative path; default: CPLMIX_RAY_DATA, else the working folder.
        seeds: replace the entries' own.
        simulated: folder of simulated cells.

    Raises:
        InputError: a setting is unknown or out of bounds, or a variable is not set.
    """
    runs: dict[tuple[str, ...], BenchmarkRun] = {}
    for entry in entries:
        if entry.simulation is None:
            data = resolve_path(str(entry.data), data_dir)
        else:
            data = simulated_file(entry.simulation, simulated)
        for point in entry.points():
            config = settings_at(entry, point, home, data)
            k_from_types = entry.n_categories is None and "model.n_categories" not in point
            text, digest = _identity(entry, config, point, k_from_types)
            for seed in seeds or entry.seeds:
                run = BenchmarkRun(entry, config.model_copy(update={"seed": seed}), k_from_types, text, digest)
                runs.setdefault(run.key, run)
    return list(runs.values())


def settings_at(entry: Entry, point: dict[str, Any], home: Path, data: str) -> CplMixVAEConfig:
    """Settings of the entry's runs at one point.

    Raises:
        InputError: a name is unknown or a value is out of bounds.
    """
    recipe = load_config(home / entry.config) if entry.config else CplMixVAEConfig()
    tree = (load_preset(entry.preset) if entry.preset else recipe).model_dump()
    source = f"entry '{entry.name}'"
    own: dict[str, Any] = {"input.data": data, "input.labels_key": entry.labels_key, "placement.engine": "local"}
    if entry.n_categories is not None:
        own["model.n_categories"] = entry.n_categories
    for name in own.keys() & point.keys():
        raise InputError(f"{source}: {name} is not for set or over; the entry says it, and runs are local.")
    given = {} if entry.batch_key is None else {"input.batch_key": entry.batch_key}
    for name, value in {**given, **point, **own}.items():
        section, _, last = name.rpartition(".")
        if section not in tree or not isinstance(tree[section], dict):
            raise InputError(f"{source}: there is no setting '{name}'; names are like model.n_arms or objective.lam.")
        tree[section][last] = value
    config = parse_config(tree, source)
    if not isinstance(config, CplMixVAEConfig):
        raise InputError(f"{source}: benchmarks run the model family cplmixvae, not {config.family}.")
    return config


def resolve_path(data: str, data_dir: Path | None) -> str:
    """Path of the data with variables replaced.

    Raises:
        InputError: a variable in it is not set.
    """

    def variable(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise InputError(f"data {data} needs the variable {match[1]}, which is not set; name the data's folder.")
        return os.environ[match[1]]

    path = re.sub(r"\$\{(\w+)\}", variable, data)
    folder = data_dir or Path(os.environ.get("CPLMIX_RAY_DATA", ""))
    return path if path == "digits" else str(folder / path)


def simulated_file(simulation: Simulation, folder: Path) -> str:
    """Path of the cells simulated with these settings; other settings have another name."""
    digest = hashlib.sha256(settings_text(simulation.model_dump()).encode()).hexdigest()[:8]
    return str(folder / f"simulated-{simulation.types}-types-{digest}.h5ad")


def _identity(entry: Entry, config: CplMixVAEConfig, point: dict[str, Any], k_from_types: bool) -> tuple[str, str]:
    """Settings as text, and the hash."""
    settings = result_settings(entry, config, k_from_types)
    unset = {"min_cells_per_type": 1, "leave_out_cells": {}, "baseline": Baseline(), "simulation": Simulation()}
    plain = entry.model_copy(update=unset)
    defaults = result_settings(plain, CplMixVAEConfig(), False)
    shown = {name: value for name, value in settings.items() if name in point or value != defaults.get(name)}
    whole = settings_text({**settings, "labels_key": entry.labels_key})
    return settings_text(shown), hashlib.sha256(whole.encode()).hexdigest()[:8]


def result_settings(entry: Entry, config: CplMixVAEConfig, k_from_types: bool) -> dict[str, Any]:
    """Settings by dotted names on which a result depends, besides the cells, the method and the seed."""
    found: dict[str, Any] = {"min_cells_per_type": entry.min_cells_per_type}
    for section, part in config.model_dump(mode="json").items():
        if section in ("family", "seed", "placement") or (entry.method not in USES_ALL_SETTINGS and section != "input"):
            continue
        found.update({f"{section}.{name}": v for name, v in part.items() if name not in _IGNORED.get(section, ())})
    if entry.leave_out_cells:
        found["leave_out_cells"] = entry.leave_out_cells
    found["model.n_categories"] = "types" if k_from_types else config.model.n_categories
    if entry.simulation is not None:
        found.update({f"simulation.{name}": value for name, value in entry.simulation.model_dump().items()})
    if entry.method not in USES_ALL_SETTINGS:
        found.update({f"baseline.{name}": value for name, value in entry.baseline.model_dump().items()})
    return found


def settings_text(settings: dict[str, Any]) -> str:
    """``name=value`` in JSON, sorted by name and separated by spaces."""
    return " ".join(f"{name}={json.dumps(settings[name], separators=(',', ':'))}" for name in sorted(settings))


def read_settings(text: str) -> dict[str, Any]:
    """The inverse of ``settings_text``."""
    settings, decoder, at = {}, json.JSONDecoder(), 0
    while at < len(text):
        name, _, rest = text[at:].partition("=")
        settings[name], length = decoder.raw_decode(rest)
        at += len(name) + 1 + length + 1
    return settings
