"""The configuration class of each model family."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, ValidationError

from cplmix_ray.config.run import RunConfig
from cplmix_ray.config.section import Section

DEFAULT_FAMILY = "cplmixvae"
"""Family of settings without the field ``family``, as in files of older versions."""

_CLASSES: dict[str, type[RunConfig]] = {}


def register_config(config: type[RunConfig]) -> None:
    """Register the settings of a family under the default of their field ``family``.

    Raises:
        ValueError: another class is registered under that name, or two sections have the same class.
    """
    name = config.model_fields["family"].default
    sections = [field.annotation for field in config.model_fields.values() if _is_section(field.annotation)]
    if len(set(sections)) < len(sections):  # the command line finds a section's name by its class
        raise ValueError(f"two sections of {config.__qualname__} have the same class; derive a class for each")
    known = _CLASSES.setdefault(name, config)
    if known is not config and (known.__module__, known.__qualname__) != (config.__module__, config.__qualname__):
        raise ValueError(f"settings of the family '{name}' are registered already: {known.__qualname__}")
    _CLASSES[name] = config


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def family_names() -> list[str]:
    """Names of all registered families."""
    return sorted(_CLASSES)


def config_class(family: str) -> type[RunConfig]:
    """The configuration class of a family.

    Raises:
        ValueError: no such family is registered.
    """
    if family not in _CLASSES:
        raise ValueError(f"there is no model family '{family}'; choose one of {', '.join(family_names())}")
    return _CLASSES[family]


def default_settings(family: str = DEFAULT_FAMILY) -> RunConfig:
    """The default settings of a family.

    Raises:
        ValueError: no such family is registered.
    """
    return config_class(family).model_validate({})


def validate_run(tree: Any) -> RunConfig:
    """Settings of a run from a nested mapping; its ``family`` selects the class.

    Raises:
        ValidationError, ValueError: the family is unknown, or a setting is unknown or out of bounds.
    """
    if isinstance(tree, RunConfig):
        return tree
    family = tree.get("family", DEFAULT_FAMILY) if isinstance(tree, dict) else DEFAULT_FAMILY
    return config_class(str(family)).model_validate(tree)


def describe(error: ValidationError) -> str:
    """The errors that Pydantic found, in one line with the dotted names of the settings."""
    return ", ".join(_describe_one(item) for item in error.errors(include_url=False))


def _describe_one(item: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    return f"{name or 'settings'}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _validate(tree: Any) -> RunConfig:
    try:
        return validate_run(tree)
    except ValidationError as error:  # a nested ValidationError would be printed on several lines
        raise ValueError(describe(error)) from None


AnyRunConfig = Annotated[SerializeAsAny[RunConfig], BeforeValidator(_validate)]
"""Type of a field that contains the settings of any family."""
