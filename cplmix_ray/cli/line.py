"""Command lines derived from the configuration: the same names, types, bounds and words."""

import argparse
import os
from typing import Annotated, TypeVar

import tyro

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
    """Parse a whole line; a wrong one ends the process with the reason and exit status 2."""
    prefixes = (tyro.conf.OmitArgPrefixes,)
    parsed = tyro.cli(command, args=args, prog=f"python -m cplmix_ray.{prog}", default=default, config=prefixes)
    assert parsed is not None
    return parsed
