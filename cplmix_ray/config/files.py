"""Configurations as YAML files."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cplmix_ray.config.augment import AugmentConfig
from cplmix_ray.config.schema import Config
from cplmix_ray.config.search import SearchConfig
from cplmix_ray.config.section import Section
from cplmix_ray.config.yaml_file import read_yaml, yaml_text
from cplmix_ray.utils.durable import replace_file, unwritten
from cplmix_ray.utils.errors import InputError


def describe(error: ValidationError) -> str:
    """Pydantic's findings as one sentence with dotted names."""
    return ", ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg'][0].lower()}{item['msg'][1:]}"
        for item in error.errors(include_url=False)
    )


def parse_config(tree: Any, source: str = "configuration") -> Config:
    """Validate a nested mapping.

    Raises:
        InputError: a name is unknown or a value is out of bounds.
    """
    try:
        return Config.model_validate({} if tree is None else tree)
    except ValidationError as error:
        raise InputError(f"{source}: {describe(error)}; see --help for the settings.") from None


def load_config(path: str | Path) -> Config:
    """Read a YAML file of settings; what it leaves out has its default. Of the file of a search, its section run.

    Raises:
        InputError: the file is missing, is no YAML, or holds unknown or out-of-bounds settings.
    """
    tree = _tree_of(path)
    return parse_search(tree, str(path)).run if _is_search(tree) else parse_config(tree, str(path))


def load_search(path: str | Path) -> SearchConfig:
    """Read the YAML file of a search.

    Raises:
        InputError: as for ``load_config``, or the file names nothing to search.
    """
    tree = _tree_of(path)
    if not _is_search(tree):
        raise InputError(f"{path} has no section space, which says what to search; see tune_configs/ for examples.")
    return parse_search(tree, str(path))


def _is_search(tree: Any) -> bool:
    return isinstance(tree, dict) and bool({"run", "space", "search"} & set(tree))


def parse_search(tree: Any, source: str) -> SearchConfig:
    """Validate the sections of a search.

    Raises:
        InputError: a name is unknown, a value is out of bounds, or parts do not go together.
    """
    try:
        return SearchConfig.model_validate(tree)
    except ValidationError as error:
        raise InputError(
            f"{source}: {describe(error)}; see python -m cplmix_ray.tune --help for the settings."
        ) from None


def load_augment(path: str | Path) -> AugmentConfig:
    """Read the YAML file of an augmenter; what it leaves out has its default.

    Raises:
        InputError: the file is missing, is no YAML, or holds unknown or out-of-bounds settings.
    """
    try:
        return AugmentConfig.model_validate(_tree_of(path))
    except ValidationError as error:
        raise InputError(
            f"{path}: {describe(error)}; see python -m cplmix_ray.augment --help for the settings."
        ) from None


def _tree_of(path: str | Path) -> Any:
    """What the file holds; an empty file leaves everything at its default."""
    tree = read_yaml(path, "configuration")
    return {} if tree is None else tree


def dump_config(config: Section) -> str:
    """The whole configuration as YAML text."""
    return yaml_text(config.model_dump(mode="json"))


def save_config(config: Section, path: Path) -> None:
    """Write the whole configuration, replacing the file in one move.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    _replace(path, dump_config(config))


def save_search(spec: SearchConfig, path: Path) -> None:
    """Write the whole search, replacing the file in one move.

    Raises:
        InputError, DiskError: it cannot be written there.
    """
    _replace(path, yaml_text(spec.model_dump(mode="json")))


def _replace(path: Path, text: str) -> None:
    try:
        replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise unwritten(path, error) from None
