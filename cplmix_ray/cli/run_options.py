"""Options of commands that train: the settings of a model family, over a preset, a file, or those of a run."""

from pathlib import Path
from typing import Any, TypeVar

from cplmix_ray.cli.parser import as_typed, bare_options, option_names, parse_line, peek
from cplmix_ray.config import RunConfig, load_config, load_preset
from cplmix_ray.config.families import DEFAULT_FAMILY, default_settings
from cplmix_ray.config.presets import DEFAULT_PRESET
from cplmix_ray.utils.errors import InputError

Command = TypeVar("Command")


def chosen_preset(args: list[str], family: str | None = None) -> str | None:
    """Name of the preset that suits the data, if the command line names neither settings nor a run to resume.

    Args:
        family: model family of the command; None where the option --family chooses it.

    Raises:
        InputError: the data are of no known format.
    """
    early = peek(args, "preset", "config", "out", "resume", "family", "data")
    named = early["preset"] is not None or early["config"] is not None or _config_to_resume(early) is not None
    if named or (family or early["family"] or DEFAULT_FAMILY) != DEFAULT_FAMILY:
        return None
    if not early["data"]:
        return DEFAULT_PRESET
    from cplmix_ray.data.io.read import preset_for  # slow to import, which --help without data does not need

    return preset_for(early["data"])


def preset_note(preset: str) -> str:
    """What a command says of a preset that it chose."""
    return f"Preset {preset}, which suits these data (the published objective: --preset published)."


def _config_to_resume(early: dict[str, str | None]) -> Path | None:
    """The settings file of the run that --resume continues."""
    if early["resume"] is None or not early["out"]:
        return None
    path = Path(early["out"]) / "config.yaml"
    return path if path.exists() else None


def base_settings(args: list[str], family: str | None = None) -> RunConfig:
    """The settings that options override: those of the preset, YAML file or run to resume, or of the preset that suits
    the data.

    Args:
        family: model family of the command; None where the option --family chooses it.

    Raises:
        InputError: a file is invalid, of another family, or both a preset and a file are given.
    """
    early = peek(args, "preset", "config", "out", "resume", "family")
    if early["preset"] and early["config"]:
        raise InputError("--preset and --config cannot be combined; give only one of them.")
    wanted = family or early["family"]
    found: RunConfig | None = None
    if early["preset"]:
        found = load_preset(early["preset"])
    elif early["config"]:
        found = load_config(early["config"], wanted)
    elif (kept := _config_to_resume(early)) is not None:
        found = load_config(kept, wanted)
    elif (chosen := chosen_preset(args, family)) is not None:
        found = load_preset(chosen)
    if found is not None:
        if wanted and found.family != wanted:
            raise InputError(f"The settings are those of the model family {found.family}; give some of {wanted}.")
        return found
    try:
        return default_settings(wanted or DEFAULT_FAMILY)
    except ValueError as error:
        raise InputError(f"--family: {error}.") from None


def parse_with_settings(command: Any, args: list[str], prog: str, default: Command) -> Command:
    """Parse the options of a command whose field ``settings`` or ``run`` holds the settings of a run.

    Args:
        command: generic dataclass of the command.
        default: holds the settings that options override.

    Raises:
        InputError: an option is unknown or ambiguous, or a value is invalid.
    """
    settings = default.settings if hasattr(default, "settings") else default.run  # type: ignore[attr-defined]
    with option_names(type(settings)) as names:
        words = bare_options(args, names, as_typed(prog))
        return parse_line(command[type(settings)], words, prog, default)
