"""What runs found, kept in a file, so that they can go on and the scorecard can be made."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import fastconv
from fastconv import _core
from fastconv._cli import CommandError
from fastconv.testing._run import Tally


def build() -> str:
    """What was tested: version and a hash of the compiled core."""
    core = hashlib.sha256(Path(_core.__file__).read_bytes()).hexdigest()[:12]
    return f"{fastconv.__version__} {core}"


class Records:
    """Tallies by the name of their run, in a JSON file if a path is given."""

    def __init__(self, path: Path | None):
        self.path, self.build, self.tallies = path, build(), {}
        if path is None or not path.exists():
            return
        try:
            stored = json.loads(path.read_text("utf-8"))
            self.tallies = {name: _tally(kept) for name, kept in stored["runs"].items()}
        except (ValueError, KeyError, TypeError) as error:
            raise CommandError(f"{path} holds no records of runs: {error}") from error
        if stored["build"] != self.build:
            raise CommandError(
                f"{path} is of another build ({stored['build']}, this one is {self.build}): "
                "give another file, or remove it"
            )

    def tally(self, name: str) -> Tally:
        return self.tallies.setdefault(name, Tally())

    def save(self) -> None:
        if self.path is None:
            return
        runs = {name: vars(tally) for name, tally in self.tallies.items()}
        written = self.path.with_name(self.path.name + ".new")
        written.write_text(json.dumps({"build": self.build, "runs": runs}, indent=1), "utf-8")
        os.replace(written, self.path)


def _tally(kept: dict) -> Tally:
    return Tally(**{**kept, "counts": Counter(kept["counts"])})
