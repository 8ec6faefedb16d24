"""Print the version, the instruction set in force, OpenMP and the number of threads."""

from __future__ import annotations

import argparse

import fastconv


def arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(options: argparse.Namespace) -> None:
    fastconv.show_config()
