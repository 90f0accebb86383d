"""Command lines derived from the configuration: the same names, types, bounds and words."""

import argparse
import contextlib
import io
import os
import re
from typing import Annotated, TypeVar

import tyro

from cplmix_ray.utils.errors import InputError

# Errors are one sentence without a link; read when pydantic first reports one.
os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")

Command = TypeVar("Command")
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""True where it stands on the line; every other switch takes True or False, so that `--switch False` is False."""


def peek(args: list[str], *names: str) -> dict[str, str | None]:
    """Values of a few options before the line is parsed, as the defaults of the others depend on them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", nargs="?", const="")
    return vars(parser.parse_known_args(args)[0])


def parse_line(command: type[Command], args: list[str], prog: str, default: Command | None = None) -> Command:
    """Parse a whole line.

    Raises:
        InputError: an option is unknown, or a value is not what the option takes.
    """
    prog, said = f"python -m cplmix_ray.{prog}", io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(command, args=args, prog=prog, default=default, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as end:
        if not end.code:  # --help was asked for and given
            raise
        raise InputError(f"{_in_one_line(said.getvalue())}; see {prog} --help.") from None
    assert parsed is not None
    return parsed


def _in_one_line(box: str) -> str:
    """The first finding in a framed message of the parser, without its title and frame."""
    lines = [line.strip(" \t│╭╮╰╯") for line in box.splitlines()]
    finding = []
    for line in lines[1:]:
        if line.startswith("─"):
            break
        finding.append(line)
    return re.sub(r"\s*\[type=.*?\]", "", " ".join(finding)).strip(" .")
