"""Messages for users of the Python API: command-line options as arguments, ``--lr 0.1`` as ``lr=0.1``."""

import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from cplmix_ray.config.names import NameIn
from cplmix_ray.config.section import Section

_OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]*(?:\.[a-z-]+)?)(?:[ =]('[^']*'|[\w+-]+(?:\.\w+)*))?")
_OF_COMMANDS = re.compile(r"[;,] [^;,.]*--(?:resume|help)\b[^;.]*")
"""Clauses about options that Python has no counterpart of."""
_REPHRASED = {
    "--batch-key or in --covariates": "batch_key= or in categorical_covariate_keys= to setup_anndata",
    "--covariates ": "covariate ",
    "--backed no": "adata.to_memory()",
    "--backed yes": "anndata.read_h5ad(..., backed='r')",
    "--out": "path=",
    "_make_unique() and save": "_make_unique()",
    "repeat the command": "try again",
}


def in_python(message: str, config: type[Section]) -> str:
    """A message with the options in it written as arguments of Python.

    What follows an option is its value if it is a number, in quotes, or one of the names that the setting takes.

    Args:
        config: the settings that options may be of.
    """
    message = _OF_COMMANDS.sub("", message)
    for words, instead in _REPHRASED.items():
        message = message.replace(words, instead)
    names = _names_taken(config)

    def argument(found: re.Match[str]) -> str:
        option, word = found[1].rpartition(".")[2].replace("-", "_"), found[2]
        if word is None:
            return f"{option}="
        if re.fullmatch(r"[+-]?[0-9][\w.+-]*|True|False|'.*'", word):
            return f"{option}={word}"
        if word in names.get(option, ()):
            return f"{option}='{word}'"
        return f"{option}= {word}"

    return _OPTION.sub(argument, message)


def _names_taken(config: type[Section]) -> dict[str, set[str]]:
    """Setting -> the names that it takes as its value, for all settings of all sections."""
    taken: dict[str, set[str]] = {}
    for name, hint in get_type_hints(config, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, Section):
            taken |= _names_taken(hint)
        else:
            taken[name] = _names_in(hint)
    return taken


def _names_in(hint: Any) -> set[str]:
    if isinstance(hint, NameIn):
        return set(hint.names())
    if get_origin(hint) is Literal:
        return {str(name) for name in get_args(hint)}
    parts = (*get_args(hint), *getattr(hint, "__metadata__", ()))
    return set().union(*(_names_in(part) for part in parts))
