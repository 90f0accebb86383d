"""Command-line options derived from the configuration, with the same names, types, bounds and descriptions."""

import argparse
import contextlib
import difflib
import gc
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from cplmix_ray.config.names import NameIn
from cplmix_ray.config.section import Section
from cplmix_ray.utils.errors import InputError

# Error messages without links. pydantic reads this variable when it first reports an error.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

Command = TypeVar("Command")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""True if the option is given, without a value; all other boolean options take True or False."""


_rules = ConstructorRegistry()
_ambiguous: set[str] = set()
"""Names of settings that occur in several sections; set while arguments are parsed."""


@_rules.struct_rule
def _section_with_choices(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Settings as tyro reads them, except that registered names are shown and checked as choices."""
    if not (isinstance(info.type, type) and issubclass(info.type, Section)):
        return None
    hints = get_type_hints(info.type, include_extras=True)
    fields = []
    for name, field in info.type.model_fields.items():
        default = tyro.MISSING if field.is_required() else field.get_default(call_default_factory=True)
        default = getattr(info.default, name, default)  # of the preset or file that the line is read over
        hint = _as_choices(hints[name])
        if name in _ambiguous:
            hint = Annotated[hint, tyro.conf.arg(name=f"{_SECTION_OF[info.type]}.{name}")]
        fields.append(StructFieldSpec(name, hint, default, helptext=field.description))
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _as_choices(hint: Any) -> Any:
    for annotation in getattr(hint, "__metadata__", ()):
        if isinstance(annotation, NameIn):
            return Literal[annotation.names()]
    if get_origin(hint) is tuple:
        return tuple[tuple(_as_choices(part) for part in get_args(hint))]  # type: ignore[misc]
    return hint


_SECTION_OF: dict[type[Section], str] = {}
"""Section class -> name of the section; set while arguments are parsed."""


@contextlib.contextmanager
def option_names(config: type[Section]) -> Iterator[dict[str, str]]:
    """Names of the options of ``config`` while the context is open: the bare name, or section and name where
    several sections have a setting of that name.

    Yields:
        section.name -> the option's name, of all settings, with hyphens.
    """
    sections = {
        name: field.annotation
        for name, field in config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    named = [*(field for section in sections.values() for field in section.model_fields), *config.model_fields]
    _ambiguous.update(name for name in named if named.count(name) > 1 and name not in sections)
    _SECTION_OF.update({section: name for name, section in sections.items()})
    try:
        every = [(section, name) for section, fields in sections.items() for name in fields.model_fields]
        full = [(f"{section}.{name}", name) for section, name in every]
        yield {_hyphens(long): _hyphens(long if name in _ambiguous else name) for long, name in full}
    finally:
        _ambiguous.clear()
        _SECTION_OF.clear()


def _hyphens(name: str) -> str:
    return name.replace("_", "-")


def bare_options(args: list[str], names: dict[str, str], prog: str) -> list[str]:
    """Arguments with ``--section.name`` in the form that the parser expects.

    Raises:
        InputError: a bare name is that of settings in several sections.
    """
    out = []
    for arg in args:
        option, equals, value = arg.partition("=")
        name = option.removeprefix("--").replace("_", "-")
        if option.startswith("--") and name in names:
            arg = f"--{names[name]}{equals}{value}"
        elif option.startswith("--") and name not in names.values():
            candidates = [full for full in names if full.endswith(f".{name}")]
            if len(candidates) > 1:
                raise InputError(
                    f"--{name} could mean {' or '.join(f'--{full}' for full in candidates)}; write one of these; see "
                    f"{prog} --help."
                )
        out.append(arg)
    return out


def peek(args: list[str], *names: str) -> dict[str, str | None]:
    """Values of some options before the arguments are parsed, because the defaults of the others depend on them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", nargs="?", const="")
    return vars(parser.parse_known_args(args)[0])


def as_typed(command: str) -> str:
    """The command as the user typed it, for messages: ``cplmix train`` or ``python -m cplmix_ray.train``."""
    return f"cplmix {command}" if Path(sys.argv[0]).stem == "cplmix" else f"python -m cplmix_ray.{command}"


def parse_line(command: type[Command], args: list[str], prog: str, default: Command | None = None) -> Command:
    """Parse all arguments.

    Raises:
        InputError: an option is unknown, or a value is invalid.
    """
    prog, said = as_typed(prog), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(
                command, args=args, prog=prog, default=default, config=(tyro.conf.OmitArgPrefixes,), registry=_rules
            )
    except SystemExit as end:
        if not end.code:  # --help was asked for and given
            raise
        raise InputError(f"{_in_one_line(said.getvalue())}; see {prog} --help.") from None
    assert parsed is not None
    return parsed


def _in_one_line(box: str) -> str:
    """The first error in a framed message of the parser, without its title and frame."""
    lines = [line.strip(" \t│╭╮╰╯") for line in box.splitlines()]
    finding = []
    for line in lines[1:]:
        if line.startswith("─"):
            break
        finding.append(line)
    heading = r"^Error parsing [\w.]+: \d+ validation errors? for \w+ (Value error, )?"
    message = re.sub(rf"\s*\[type=.*?\]|{heading}", "", " ".join(finding)).strip(" .")
    message = re.sub(r"invalid literal for int\(\) with base 10: ('.*')", r"\1 is not a whole number", message)
    message = re.sub(r"could not convert string to float: ('.*')", r"\1 is not a number", message)
    message = re.sub(r"no type matching (.+?) could be instantiated from \['(.*?)'\]\. .*", r"'\2' is not \1", message)
    message = re.sub(r"is not INT\|\{(\w+)\}", r"is not a whole number or \1", message)
    if unknown := re.search(r"^Unrecognized options:\s+([^,\n]+)", "\n".join(lines), re.MULTILINE):
        return _unknown_option(unknown[1], re.findall(r"^--[\w.-]+", "\n".join(lines), re.MULTILINE))
    return message


def _unknown_option(word: str, similar: list[str]) -> str:
    """The error message for an unknown option or a stray argument, with a similar option if there is one."""
    if not word.startswith("-"):
        return (
            f"'{word}' follows no option; write the name of an option before it, as in --out my_run, and quotes around "
            "a path with spaces"
        )
    close = difflib.get_close_matches(word, set(similar) - {word}, 1)
    return f"There is no option {word}{f' (did you mean {close[0]}?)' if close else ''}"


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Disable garbage collection during slow imports, where it finds nothing and takes a fifth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
