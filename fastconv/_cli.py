"""What commands are made of: modules that become subcommands, and errors without a traceback."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from types import ModuleType


class CommandError(Exception):
    """What the user can mend: printed without a traceback."""


def add_commands(parser: argparse.ArgumentParser, package: ModuleType) -> None:
    """Gives a parser one subcommand for each module of a package.

    The first line of the module's docstring is its help; `arguments(parser)` adds its options, and
    `run(options)`, where it has no subcommands of its own, does it. A module whose name begins with
    an underscore is no command.
    """
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for found in pkgutil.iter_modules(package.__path__):
        if not found.name.startswith("_"):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
            text = module.__doc__ or ""  # Python -OO takes it away
            command = subparsers.add_parser(
                found.name,
                help=text.partition("\n")[0].rstrip("."),
                description=text,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.arguments(command)
            if hasattr(module, "run"):
                command.set_defaults(run=module.run)


def positive(text: str) -> int:
    """The type of an argument that is a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, not {text}")
    return int(text)
