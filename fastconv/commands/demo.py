"""Run a trained network on real pictures, and draw what it sees.

The weights come from Python packages; whichever is missing is named, with the command that installs
it. Pictures are drawn with Pillow and come from scikit-image: pip install 'fastconv[demo]'.
"""

from __future__ import annotations

import argparse

from fastconv import demos
from fastconv._cli import add_commands


def arguments(parser: argparse.ArgumentParser) -> None:
    add_commands(parser, demos)
