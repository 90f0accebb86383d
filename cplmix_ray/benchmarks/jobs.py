"""From entries to single runs, each with what tells it from all others."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cplmix_ray.benchmarks.entries import Baseline, Entry
from cplmix_ray.config import Config, load_config, load_preset
from cplmix_ray.config.files import parse_config
from cplmix_ray.utils.errors import InputError

_NO_MATTER = {
    "input": {"data", "labels_key"},
    "training": {"log_every", "evaluate_every", "checkpoint_every", "keep_checkpoints"},
}
"""Settings on which no result depends, or that have a column of their own; so have the seed and where it runs."""


@dataclass(frozen=True)
class Job:
    """One run of a benchmark.

    Attributes:
        config: settings with the data's whole path and the seed; for other methods, its input section counts.
        types_decide: K is the number of types among the cells.
        settings: what differs from the defaults, and what the entry sets, as compact text.
        hash: of all that a result depends on but the seed, so that a default that changes is seen.
    """

    entry: Entry
    config: Config
    types_decide: bool
    settings: str
    hash: str

    @property
    def data(self) -> str:
        """The data's name in rows."""
        return Path(self.config.input.data).name

    @property
    def key(self) -> tuple[str, ...]:
        return self.entry.name, self.data, self.entry.method, self.hash, str(self.config.seed)

    def __str__(self) -> str:
        point = "".join(f" {name}={_value(self.config, name)}" for name in self.entry.over)
        return f"{self.entry.name}{point} seed {self.config.seed}"


def jobs_of(
    entries: Iterable[Entry], home: Path, data_dir: Path | None = None, seeds: tuple[int, ...] = ()
) -> list[Job]:
    """Every run of the entries; what would be the same run twice is one.

    Args:
        home: folder of the benchmark's file.
        data_dir: where data with a plain path is; default: the folder in CPLMIX_RAY_DATA, else the working folder.
        seeds: in place of the entries' own.

    Raises:
        InputError: a setting is unknown or out of bounds, or a variable is not set.
    """
    jobs: dict[tuple[str, ...], Job] = {}
    for entry in entries:
        data = locate(entry.data, data_dir)
        for point in entry.points():
            config = settings_at(entry, point, home, data)
            types_decide = entry.n_categories is None and "model.n_categories" not in point
            text, digest = _identity(entry, config, point, types_decide)
            for seed in seeds or entry.seeds:
                job = Job(entry, config.model_copy(update={"seed": seed}), types_decide, text, digest)
                jobs.setdefault(job.key, job)
    return list(jobs.values())


def settings_at(entry: Entry, point: dict[str, Any], home: Path, data: str) -> Config:
    """Settings of the entry's runs at one point.

    Raises:
        InputError: a name is unknown or a value is out of bounds.
    """
    recipe = load_config(home / entry.config) if entry.config else Config()
    tree = (load_preset(entry.preset) if entry.preset else recipe).model_dump()
    source = f"entry '{entry.name}'"
    own: dict[str, Any] = {"input.data": data, "input.labels_key": entry.labels_key, "placement.engine": "local"}
    if entry.n_categories is not None:
        own["model.n_categories"] = entry.n_categories
    for name in own.keys() & point.keys():
        raise InputError(f"{source}: {name} is not for set or over; the entry says it, and runs are local.")
    for name, value in {**point, **own}.items():
        section, _, last = name.rpartition(".")
        if section not in tree or not isinstance(tree[section], dict):
            raise InputError(f"{source}: there is no setting '{name}'; names are like model.n_arms or objective.lam.")
        tree[section][last] = value
    return parse_config(tree, source)


def locate(data: str, data_dir: Path | None) -> str:
    """The whole path of data.

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


def _identity(entry: Entry, config: Config, point: dict[str, Any], types_decide: bool) -> tuple[str, str]:
    """Settings as text and the hash of a job."""
    settings = relevant(entry, config, types_decide)
    plain = entry.model_copy(update={"min_cells_per_type": 1, "baseline": Baseline()})
    usual = relevant(plain, Config(), False)
    shown = {name: value for name, value in settings.items() if name in point or value != usual[name]}
    whole = settings_text({**settings, "labels_key": entry.labels_key})
    return settings_text(shown), hashlib.sha256(whole.encode()).hexdigest()[:8]


def relevant(entry: Entry, config: Config, types_decide: bool) -> dict[str, Any]:
    """All that a result depends on besides the cells, the method and the seed, by dotted names."""
    found: dict[str, Any] = {"min_cells_per_type": entry.min_cells_per_type}
    for section, part in config.model_dump(mode="json").items():
        if section in ("seed", "placement") or (entry.method != "cplmix" and section != "input"):
            continue
        found.update({f"{section}.{name}": v for name, v in part.items() if name not in _NO_MATTER.get(section, ())})
    found["model.n_categories"] = "types" if types_decide else config.model.n_categories
    if entry.method != "cplmix":
        found.update({f"baseline.{name}": value for name, value in entry.baseline.model_dump().items()})
    return found


def settings_text(settings: dict[str, Any]) -> str:
    """``name=value`` in JSON, in the order of names, with spaces between."""
    return " ".join(f"{name}={json.dumps(settings[name], separators=(',', ':'))}" for name in sorted(settings))


def read_settings(text: str) -> dict[str, Any]:
    """The inverse of ``settings_text``."""
    settings, decoder, at = {}, json.JSONDecoder(), 0
    while at < len(text):
        name, _, rest = text[at:].partition("=")
        settings[name], length = decoder.raw_decode(rest)
        at += len(name) + 1 + length + 1
    return settings


def _value(config: Config, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return getattr(getattr(config, section), name)
