"""Home folders in paths, which a shell expands in `--out ~/x` but not in `--out=~/x` nor in a YAML file."""

import os
from typing import Any

from cplmix_ray.utils.errors import InputError


def expand_home(paths: Any) -> Any:
    """A path, or several with commas between them, as text with ``~`` and ``~user`` replaced by home folders.

    Anything but text and path objects is returned as it is.

    Raises:
        InputError: the home folder of the user is not known.
    """
    if not isinstance(paths, str | os.PathLike):
        return paths
    parts = [os.path.expanduser(part) for part in str(os.fspath(paths)).split(",")]  # noqa: PTH111
    for part in parts:
        if part == "~" or part.startswith("~/"):
            raise InputError(f"{part} names a home folder, and there is none (HOME is not set); give the whole path.")
    return ",".join(parts)


def expand_home_in_options(args: list[str]) -> list[str]:
    """Arguments of a command with home folders expanded, in ``--option ~/x`` and ``--option=~/x``."""
    split = [arg.partition("=") if arg.startswith("--") else ("", "", arg) for arg in args]
    return [option + equals + expand_home(value) for option, equals, value in split]
