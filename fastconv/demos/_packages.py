"""Where the files of installed packages lie, and what to do where one is missing.

A package that comes with weights or data is never imported: many bring much more along.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from fastconv._cli import CommandError


def folder_of(package: str, install: str) -> Path:
    """The folder of an installed package. CommandError, with the command that installs it, if none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise CommandError(f"the files of the package {package} are missing: {install}")
    return Path(spec.submodule_search_locations[0])


def tool(module: str, package: str) -> ModuleType:
    """An imported module of a package that the extra "demo" installs; CommandError if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CommandError(f"{error}: pip install {package}, or 'fastconv[demo]'") from None
