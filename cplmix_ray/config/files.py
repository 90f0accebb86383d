"""Reading and writing configurations as YAML files."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cplmix_ray.config.families import describe, validate_run
from cplmix_ray.config.presets import load_preset
from cplmix_ray.config.run import RunConfig
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.config.section import Section
from cplmix_ray.config.yaml_file import read_yaml, yaml_text
from cplmix_ray.utils.durable import replace_file, unwritten
from cplmix_ray.utils.errors import InputError


def parse_config(tree: Any, source: str = "configuration") -> RunConfig:
    """Validate a nested mapping. If it names a ``preset``, its other settings override those of the preset.

    Raises:
        InputError: a name is unknown or a value is out of bounds.
    """
    try:
        return validate_run({} if tree is None else _over_preset(tree, source))
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error)}; see --help for the settings.") from None
    except ValueError as error:
        raise InputError(f"{source}: {error}.") from None


def _over_preset(tree: Any, source: str) -> Any:
    if not isinstance(tree, dict) or "preset" not in tree:
        return tree
    if not isinstance(tree["preset"], str):
        raise InputError(f"{source}: preset: should be the name of a preset.")
    merged = load_preset(tree["preset"]).model_dump()
    for name, value in tree.items():
        if name != "preset":
            both = isinstance(merged.get(name), dict) and isinstance(value, dict)
            merged[name] = {**merged[name], **value} if both else value
    return merged


def load_config(path: str | Path, family: str | None = None) -> RunConfig:
    """Read the settings of a run from a YAML file; missing settings have their defaults.

    Args:
        path: file of a run, or file of a search, of which the section ``run`` is returned.
        family: model family if the file names none.

    Raises:
        InputError: the file is missing, is not valid YAML, or contains unknown or out-of-bounds settings.
    """
    tree = _tree_of(path)
    if family is not None and isinstance(tree, dict) and "family" not in tree and not _is_search(tree):
        tree = {"family": family, **tree}
    return parse_search(tree, str(path)).run if _is_search(tree) else parse_config(tree, str(path))


def load_search(path: str | Path) -> SearchConfig:
    """Read the YAML file of a search.

    Raises:
        InputError: as for ``load_config``, or the file has no section ``space``.
    """
    tree = _tree_of(path)
    if not _is_search(tree):
        raise InputError(
            f"{path} has no section 'space', which defines the settings to search; see tune_configs/ for examples."
        )
    return parse_search(tree, str(path))


def _is_search(tree: Any) -> bool:
    return isinstance(tree, dict) and bool({"run", "space", "search"} & set(tree))


def parse_search(tree: Any, source: str) -> SearchConfig:
    """Validate the sections of a search.

    Raises:
        InputError: a name is unknown, a value is out of bounds, or settings cannot be combined.
    """
    if isinstance(tree, dict) and isinstance(tree.get("run"), dict):
        tree = {**tree, "run": parse_config(tree["run"], f"{source}: run")}
    try:
        return SearchConfig.model_validate(tree)
    except ValidationError as error:
        raise InputError(
            f"{source}: {describe(error)}; see python -m cplmix_ray.tune --help for the settings."
        ) from None


def _tree_of(path: str | Path) -> Any:
    """Content of the file; an empty file is an empty mapping."""
    tree = read_yaml(path, "configuration")
    return {} if tree is None else tree


def dump_config(config: Section) -> str:
    """The configuration as YAML text, including defaults."""
    return yaml_text(config.model_dump(mode="json"))


def save_config(config: Section, path: Path) -> None:
    """Write the configuration, including defaults; the file is replaced atomically.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    _replace(path, dump_config(config))


def save_search(spec: SearchConfig, path: Path) -> None:
    """Write the settings of a search, including defaults; the file is replaced atomically.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    _replace(path, yaml_text(spec.model_dump(mode="json")))


def _replace(path: Path, text: str) -> None:
    try:
        replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise unwritten(path, error) from None
