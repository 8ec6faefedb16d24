"""`python -m fastconv COMMAND`, also installed as `fastconv COMMAND`."""

from __future__ import annotations

import argparse

import fastconv
from fastconv import commands
from fastconv._cli import CommandError, add_commands
from fastconv.checkpoints import CheckpointError


def main(arguments: list[str] | None = None) -> None:
    """Does what the arguments say (those of the process if None).

    SystemExit with 2 for arguments that make no sense, 1 for what went wrong later.
    """
    parser = argparse.ArgumentParser(prog="fastconv", description=fastconv.__doc__)
    version = f"fastconv {fastconv.__version__}"
    parser.add_argument("--version", action="version", version=version)
    add_commands(parser, commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (CommandError, CheckpointError, OSError) as error:
        parser.exit(1, f"fastconv: {error}\n")


if __name__ == "__main__":
    main()
