"""`cplmix`: one command with a subcommand for each entry module."""

from collections.abc import Callable
from importlib import import_module

from cplmix_ray.cli.exits import run_command
from cplmix_ray.utils.errors import InputError
from cplmix_ray.version import __version__

COMMANDS = {
    "train": "find cell types and states: train coupled autoencoders",
    "tune": "search over the number of arms, the coupling, the number of categories and other settings",
    "evaluate": "score a trained model",
    "prune": "find the number of categories: remove those on which arms agree least",
    "predict": "annotate cells with a trained model",
    "de": "find the genes that differ between two conditions inside each category",
    "compare": "compare the categories of two results on the same cells",
    "splits": "test which categories are separate types",
    "augment": "learn an augmentation of cells, for train --copies learned",
    "simulate": "simulate cells with known types and states",
    "bench": "compare methods and settings, measure speed",
}


def main() -> None:
    """Run the subcommand that the command line names and leave the process."""
    run_command(_run)


def _run(args: list[str]) -> None:
    """Run a subcommand on its arguments.

    Raises:
        InputError: there is no such subcommand.
    """
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
    elif args[0] == "--version":
        print(__version__)
    elif args[0] in COMMANDS:
        # Each command is imported when it is chosen, so that the others cost no time.
        command: Callable[[list[str]], None] = getattr(import_module(f"cplmix_ray.cli.{args[0]}_command"), args[0])
        command(args[1:])
    else:
        raise InputError(f"There is no command '{args[0]}'; choose among {', '.join(COMMANDS)}, or see cplmix --help.")


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {meaning}" for name, meaning in COMMANDS.items()]
    more = "cplmix COMMAND --help lists the options of a command; python -m cplmix_ray.COMMAND is the same."
    return "\n".join(["usage: cplmix COMMAND [OPTIONS]", "", *lines, "", more])
